"""What is told of the data, against NumPy's figures."""

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from cifar_resnet.data.describe import GAP, ZOOM, channel_statistics, images_per_class, samples
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


def cells(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 32, 32, 3) uint8: the pixels of the images in a drawn figure."""
    with Image.open(io.BytesIO(png(figure))) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    step = 32 + GAP
    grid = drawn[-ZOOM * (rows * step + GAP) :, -ZOOM * (columns * step + GAP) :]
    assert np.array_equal(grid, grid[::ZOOM, ::ZOOM].repeat(ZOOM, 0).repeat(ZOOM, 1))
    return (
        grid[::ZOOM, ::ZOOM][GAP:, GAP:].reshape(rows, step, columns, step, 3).swapaxes(1, 2)[:, :, :32, :32]
    )


def test_samples_show_the_first_images_of_each_class_dot_for_dot() -> None:
    data = Images(random_images(19).images, torch.arange(19) % 4)
    shown = cells(samples(data, CLASSES[:4], per_class=5), 4, 5)
    for index, image in enumerate(data.images):
        assert np.array_equal(shown[index % 4, index // 4], image.permute(1, 2, 0))
    assert (shown[3, 4] == 255).all()  # the last class has only four images
