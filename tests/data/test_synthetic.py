"""The made-up data set: its format, and that it takes a network to tell the shapes apart."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torchvision.datasets import CIFAR10, cifar

from cifar_resnet.data.cifar10 import decode_batch, decode_class_names
from cifar_resnet.data.synthetic import SHAPES, SyntheticConfig, draw_images, masks, synthetic_files
from cifar_resnet.images import Images, concatenate
from cifar_resnet.network.inference import NormalizationConfig, build_normalization, predict
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNetConfig

SMALL = SyntheticConfig(train_images=250, test_images=20, seed=0)
TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


@pytest.fixture(scope="module")
def demo() -> tuple[Images, Images]:
    """Training and test images of the demo's size."""
    files = synthetic_files(SyntheticConfig(train_images=6_000, test_images=1_000, seed=0))
    return concatenate(decode_batch(files[name]) for name in TRAIN), decode_batch(files["test_batch"])


def test_same_settings_give_the_same_bytes() -> None:
    before = str(np.random.get_state())  # noqa: NPY002
    assert synthetic_files(SMALL) == synthetic_files(SMALL)
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_another_seed_gives_other_images_in_every_file_but_the_same_names() -> None:
    first, other = synthetic_files(SMALL), synthetic_files(SMALL.model_copy(update={"seed": 1}))
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == ["batches.meta"]


def test_no_image_comes_twice(demo: tuple[Images, Images]) -> None:
    images = torch.cat([split.images for split in demo])
    assert len({image.numpy().tobytes() for image in images}) == 7_000


def test_torchvision_reads_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    files = synthetic_files(SMALL)
    assert sorted(files) == sorted([*TRAIN, "test_batch", "batches.meta"])
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for train, count in ((True, 250), (False, 20)):
        data = CIFAR10(str(tmp_path), train=train)
        assert data.data.shape == (count, 32, 32, 3)
        assert np.bincount(data.targets).tolist() == [count // 10] * 10
        assert data.classes == SHAPES


def test_files_have_the_entries_of_the_official_ones() -> None:
    files = synthetic_files(SMALL)
    batch = pickle.loads(files["data_batch_2"])  # noqa: TID251
    assert batch.keys() == {"batch_label", "labels", "data", "filenames"}
    assert batch["data"].shape == (50, 3072)
    assert batch["data"].dtype == np.uint8
    assert {type(label) for label in batch["labels"]} == {int}
    for label, name in zip(batch["labels"], batch["filenames"], strict=True):
        assert name.startswith(SHAPES[label])
    meta = pickle.loads(files["batches.meta"])  # noqa: TID251
    assert meta == {"num_cases_per_batch": 50, "label_names": SHAPES, "num_vis": 3072}
    assert decode_class_names(files["batches.meta"]) == SHAPES


def test_every_file_has_ten_balanced_classes_in_random_order() -> None:
    for name, content in synthetic_files(SMALL).items():
        if name != "batches.meta":
            labels = decode_batch(content).labels
            assert labels.bincount().tolist() == [len(labels) // 10] * 10
            assert not torch.equal(labels, torch.arange(len(labels)) % 10)


def test_shapes_differ_from_each_other_at_any_size() -> None:
    assert len(set(SHAPES)) == 10
    for radius in (7.0, 9.0, 12.0):
        drawn = masks(np.arange(10), np.full((10, 2), 16.0), np.full(10, radius))
        assert drawn.shape == (10, 32, 32)
        for label, mask in enumerate(drawn):
            for other in drawn[:label]:
                assert (mask ^ other).sum() > 0.12 * (2 * radius) ** 2


def test_shapes_lie_where_they_are_placed() -> None:
    for label in range(10):
        mask = masks(np.array([label]), np.array([[12.0, 20.0]]), np.array([8.0]))[0]
        rows, columns = np.nonzero(mask)
        assert 4 <= rows.min() <= 6
        assert 18 <= rows.max() <= 19
        assert 12 <= columns.min() <= 14
        assert 25 <= columns.max() <= 27


@pytest.mark.parametrize(("shape", "transposed"), [("bars", "columns"), ("disk", "disk"), ("plus", "plus")])
def test_shapes_are_what_they_are_called(shape: str, transposed: str) -> None:
    drawn = masks(np.arange(10), np.full((10, 2), 16.0), np.full(10, 10.0))
    mask = drawn[SHAPES.index(shape)]
    assert np.array_equal(mask.T, drawn[SHAPES.index(transposed)])
    if shape == "bars":
        assert (mask[:, 16] == mask[:, 8]).all()


def test_every_channel_of_every_image_shows_its_shape() -> None:
    labels = np.arange(500) % 10
    images = draw_images(labels, np.random.default_rng(0)) / 255.0
    assert (images.std((2, 3)) > 0.08).all()


def test_place_and_size_of_a_shape_are_random() -> None:
    disks = draw_images(np.zeros(300, np.int64), np.random.default_rng(0)) / 255.0
    background = np.median(disks[:, :, [0, -1], :], axis=(2, 3), keepdims=True)
    disk = np.abs(disks - background).mean(1) > 0.25  # (N, 32, 32)
    area = disk.sum((1, 2))
    rows, columns = (disk.sum(axis) @ np.arange(32) / area for axis in (2, 1))
    # uniform over 10 pixels each way: standard deviation 2.9; radius 7 to 12
    assert 2 < rows.std() < 3.5
    assert 2 < columns.std() < 3.5
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
    assert np.quantile(area, 0.95) > 2 * np.quantile(area, 0.05)


def accuracy_of(predicted: Any, labels: torch.Tensor) -> float:
    return float((torch.as_tensor(predicted) == labels).double().mean())


def test_an_untrained_network_guesses(demo: tuple[Images, Images]) -> None:
    _, test = demo
    normalization = build_normalization(
        NormalizationConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), torch.device("cpu")
    )
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        network = build_model(ResNetConfig(width=4, blocks=(1, 1, 1, 1)), 10, random)
        logits = torch.cat(list(predict(network, test.images.split(500), normalization, torch.float32)))
        assert 0.05 <= accuracy_of(logits.argmax(1), test.labels) <= 0.15


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_pixels_alone_do_not_tell_the_shapes_apart(demo: tuple[Images, Images]) -> None:
    """Colours, place and polarity are random, so neither the mean image nor a linear classifier helps."""
    train, test = ((split.images.flatten(1).numpy() / 255, split.labels) for split in demo)
    centroid = NearestCentroid().fit(train[0], train[1].numpy())
    assert accuracy_of(centroid.predict(test[0]), test[1]) < 0.25
    linear = LogisticRegression(max_iter=20).fit(train[0][:2_000], train[1][:2_000].numpy())
    assert accuracy_of(linear.predict(train[0][:2_000]), train[1][:2_000]) > 0.4  # it did learn its images
    assert accuracy_of(linear.predict(test[0]), test[1]) < 0.25


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_images": 0},
        {"train_images": 60},
        {"train_images": 50_050},
        {"test_images": 0},
        {"test_images": 15},
        {"test_images": 10_010},
        {"seed": -1},
        {"classes": 10},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SyntheticConfig.model_validate(SMALL.model_dump() | wrong)
