"""Pictures in folders: what is found, what is refused, and that they come out as they are."""

import os
from pathlib import Path

import pytest
import torch

from cifar_resnet.data import folder
from cifar_resnet.files.params import UserError
from tests.serving.conftest import noise, picture

FILES = ("train/cat/a.png", "train/cat/b.JPG", "train/dog/below/a.png", "test/cat/a.png", "test/dog/a.bmp")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five pictures of 24 by 24 pixels."""
    for seed, name in enumerate(FILES):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(noise(24, 24, seed)).save(path)
    return tmp_path / "source"


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    folder.copy(source, tmp_path / "raw" / "pictures")
    return tmp_path / "raw" / "pictures"


def test_pictures_become_tensors_with_the_labels_of_their_folders(copied: Path) -> None:
    names, train, test = folder.read_pictures(copied, 24)
    assert names == ["cat", "dog"]
    assert train.labels.tolist() == [0, 0, 1]
    assert test.labels.tolist() == [0, 1]
    for image, seed in ((train.images[0], 0), (train.images[2], 2), (test.images[0], 3), (test.images[1], 4)):
        assert torch.equal(image, noise(24, 24, seed))


def test_a_copy_replaces_the_one_before_and_says_what_it_leaves_out(source: Path, copied: Path) -> None:
    (source / "train/cat/b.JPG").unlink()
    (source / "train/cat/photo.heic").write_bytes(b"unknown")
    (source / "train/.hidden").mkdir()
    told = folder.copy(source, copied)
    assert told.startswith("2 train, 2 test pictures of 2 classes from ")
    assert told.endswith(
        f"; not named as pictures, and left out: 1 of the files there, such as {source}/train/cat/photo.heic"
    )
    assert [path.name for path in sorted((copied / "train").rglob("*.*"))] == ["a.png", "a.png"]
    assert sorted(path.name for path in copied.parent.iterdir()) == ["pictures"]


def test_all_broken_pictures_are_named_at_once(source: Path, copied: Path) -> None:
    (source / "train/cat/a.png").write_bytes(b"no picture")
    (source / "test/dog/a.bmp").write_bytes(b"")
    folder.copy(source, copied)
    with pytest.raises(
        UserError, match=r"^2 of 5 .*: train/cat/a.png \(not a .*\), test/dog/a.bmp \(.*empty\);"
    ):
        folder.read_pictures(copied, 24)


def test_a_picture_that_changed_since_it_was_fetched_is_not_read(copied: Path) -> None:
    (copied / "test/dog/a.bmp").write_bytes((copied / "test/cat/a.png").read_bytes())
    with pytest.raises(UserError, match=r"a\.bmp is damaged: .*--force fetch"):
        folder.read_pictures(copied, 24)


def test_folders_that_hold_no_two_classes_in_both_splits_are_refused_and_nothing_is_written(
    source: Path, tmp_path: Path
) -> None:
    def refused(told: str) -> None:
        with pytest.raises(UserError, match=told):
            folder.copy(source, tmp_path / "raw/pictures")
        assert not (tmp_path / "raw").exists()

    (source / "test/dog/a.bmp").rename(source / "a.bmp")
    refused(r"source/test has no picture of dog$")
    (source / "test/dog").rename(source / "test/dogs")
    refused(r"the same classes; not there: \S*source/train/dogs, \S*source/test/dog$")
    (source / "test/dogs").rmdir()
    (source / "train/dog").rename(source / "dog")
    refused("at least two folders")
    (source / "test").rename(source / "other")
    refused("no folder 'test'")


def test_more_pictures_than_memory_are_refused_before_any_is_read(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_few = 5 * 3 * 128**2 * folder.COPIES - 1  # bytes
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": too_few}.__getitem__)
    with pytest.raises(UserError, match=r"5 pictures of 128 x 128 .* lower preprocess.image_size$"):
        folder.read_pictures(copied, 128)
