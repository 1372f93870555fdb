"""What is told of the data, against NumPy's figures."""

import io

import numpy as np
import torch
from PIL import Image

from cifar_resnet.data.summary import GAP, ZOOM, channel_statistics, images_per_class, samples
from cifar_resnet.images import Images
from tests.made_up import png, random_images

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_images_are_counted_per_class_and_split() -> None:
    splits = {"train": random_images(200, 5), "val": random_images(50, 7, seed=1), "test": random_images(1)}
    counts = images_per_class(splits, CLASSES)
    assert list(counts) == ["class", "train", "val", "test"]
    assert counts["class"].tolist() == CLASSES
    for split, data in splits.items():
        labels = data.labels.tolist()
        assert counts[split].tolist() == [labels.count(label) for label in range(10)]


def test_channel_statistics_equal_numpys() -> None:
    images = random_images(1_200).images  # more than are counted at a time
    images[:, 2] //= 3  # channels that differ
    channels = channel_statistics(images)
    assert channels["channel"].tolist() == ["red", "green", "blue"]
    pixels = images.numpy() / 255
    np.testing.assert_allclose(channels["mean"], pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(channels["std"], pixels.std((0, 2, 3)), rtol=1e-10)


def test_samples_show_the_first_images_of_each_class_dot_for_dot() -> None:
    data = Images(random_images(19).images, torch.arange(19) % 4)
    with Image.open(io.BytesIO(png(samples(data, CLASSES[:4], per_class=5)))) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    step = 32 + GAP
    grid = drawn[-ZOOM * (4 * step + GAP) :, -ZOOM * (5 * step + GAP) :]
    small = grid[::ZOOM, ::ZOOM]
    assert np.array_equal(grid, small.repeat(ZOOM, 0).repeat(ZOOM, 1))
    cells = small[GAP:, GAP:].reshape(4, step, 5, step, 3).swapaxes(1, 2)[:, :, :32, :32]
    for index, image in enumerate(data.images):
        assert np.array_equal(cells[index % 4, index // 4], image.permute(1, 2, 0))
    assert (cells[3, 4] == 255).all()  # the last class has only four images
