"""Pictures in folders: what is found, what is refused, and that they come out as they are."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cifar_resnet.data import folder
from cifar_resnet.errors import UserError
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
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1], [0, 1])
    for image, seed in zip((train.images[0], train.images[2], *test.images), (0, 2, 3, 4), strict=True):
        assert torch.equal(image, noise(24, 24, seed))


def test_a_copy_replaces_the_one_before_and_says_what_it_leaves_out(source: Path, copied: Path) -> None:
    (source / "train/cat/b.JPG").unlink()
    (source / "train/cat/photo.heic").write_bytes(b"unknown")
    for hidden in ("train/.hidden", "train/cat/.ipynb_checkpoints"):
        (source / hidden).mkdir()
        picture(noise(9, 9)).save(source / hidden / "a.png")
    told = folder.copy(source, copied)
    assert told.startswith("2 train, 2 test pictures of 2 classes from ")
    assert told.endswith(f"; 1 left out, as not named as pictures, such as {source}/train/cat/photo.heic")
    assert [path.name for path in sorted((copied / "train").rglob("*.*"))] == ["a.png", "a.png"]
    assert sorted(path.name for path in copied.parent.iterdir()) == ["pictures"]


def test_all_broken_pictures_are_named_at_once_in_one_short_line(source: Path, copied: Path) -> None:
    (source / "train/cat/a.png").write_bytes(b"no picture")
    (source / "test/dog/a.bmp").write_bytes(b"")
    folder.copy(source, copied)
    told = r"^2 of 5 .*: train/cat/a.png \(not a .*\), test/dog/a.bmp \(.*empty\);"
    with pytest.raises(UserError, match=told):
        folder.read_pictures(copied, 24)
    for number in range(500):
        (source / f"train/cat/{number:03d}.png").write_bytes(b"no picture")
    folder.copy(source, copied)
    with pytest.raises(UserError, match=r"^502 of 505 .*cat/009.png \(.*\) and 492 more; mend") as caught:
        folder.read_pictures(copied, 24)
    assert len(str(caught.value)) < 1_000


def test_links_are_followed_to_pictures_and_once_to_each_folder_within(source: Path, tmp_path: Path) -> None:
    (tmp_path / "0123abcd").write_bytes((source / "train/cat/a.png").read_bytes())  # as a cache names it
    (source / "train/cat/link.png").symlink_to(tmp_path / "0123abcd")
    (source / "train/cat/again").symlink_to("..")  # a loop, by way of dog
    told = folder.copy(source, tmp_path / "raw")
    assert told.startswith("5 train, 2 test pictures")
    assert (tmp_path / "raw/train/cat/link.png").is_file()
    assert not (tmp_path / "raw/train/cat/link.png").is_symlink()
    assert (tmp_path / "raw/train/cat/again/dog/below/a.png").is_file()


CONTROL = "text without control characters, not '"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {  # what happens to train/cat
    "link out": (lambda cat: (cat / "x.png").symlink_to("/etc/passwd"), r"x.png leads to no .*/etc/passwd\)"),
    "link to nothing": (lambda cat: (cat / "x.png").symlink_to("no"), r"x.png leads to no .*/train/cat/no\)"),
    "link to itself": (lambda cat: (cat / "x.png").symlink_to("x.png"), "cat/x.png leads to no picture"),
    "linked folder": (lambda cat: (cat / "x").symlink_to("/etc"), "cat/x is a link to a folder elsewhere"),
    "pipe": (lambda cat: os.mkfifo(cat / "x.png"), "cat/x.png leads to no picture"),
    "control": (
        lambda cat: (cat / "a.png").rename(cat / "\33[2J\n.png"),
        r"'.*\\x1b\[2J\\n.png' has a control ",
    ),
    "the byte 0xff in a picture": (
        lambda cat: (cat / "a.png").rename(cat / "\udcff.png"),
        "or no text: rename",
    ),
    "the byte 0xff in a folder below": (
        lambda cat: shutil.copytree(cat.parent / "dog", cat / "\udcff"),
        "or no text: rename",
    ),
    "line in a class": (lambda cat: cat.rename(cat.with_name("c\nat")), rf"{CONTROL}c\\nat'$"),
    "the byte 0xff": (lambda cat: cat.with_name("\udcff").mkdir(), rf"{CONTROL}\\udcff'$"),
    "twins": (
        lambda cat: cat.rename(cat.with_name("caf\u00e9")).with_name("cafe\u0301").mkdir(),
        r"'caf.*' is there in two spellings of Unicode",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_is_refused(
    spoil: Callable[[Path], object], told: str, source: Path, tmp_path: Path
) -> None:
    spoil(source / "train/cat")
    with pytest.raises(UserError, match=told) as caught:
        folder.copy(source, tmp_path / "raw")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "raw").exists()


def test_a_picture_that_changed_since_it_was_fetched_is_not_read(copied: Path) -> None:
    (copied / "test/dog/a.bmp").write_bytes((copied / "test/cat/a.png").read_bytes())
    with pytest.raises(UserError, match=r"a\.bmp is damaged: .*--force fetch"):
        folder.read_pictures(copied, 24)


def test_two_classes_in_both_splits_are_needed(source: Path, tmp_path: Path) -> None:
    for old, new, told in (
        ("test/dog/a.bmp", "a.bmp", r"source/test has no picture of dog$"),
        ("test/dog", "test/dogs", r"the same classes; not there: \S*source/train/dogs, \S*source/test/dog$"),
        ("train/dog", "train/dogs", "has no picture of dogs"),
        ("train/dogs", "dogs", r"the same classes; not there: \S*source/train/dogs$"),
        ("test/dogs", "more", "at least two folders"),
        ("test", "other", "no folder 'test'"),
    ):
        (source / old).rename(source / new)
        with pytest.raises(UserError, match=told):
            folder.copy(source, tmp_path / "raw/pictures")
        assert not (tmp_path / "raw").exists()


def test_more_pictures_than_memory_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_few = 5 * 3 * 128**2 * folder.MEMORY_FACTOR - 1  # bytes
    monkeypatch.setattr(folder, "CONTAINER", copied / "memory.max")
    for machine, container in ((too_few, "max"), (2 * too_few, too_few)):
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": machine}.__getitem__)
        folder.CONTAINER.write_text(f"{container}\n")
        with pytest.raises(UserError, match=r"5 pictures of 128 x 128 .* lower preprocess.image_size$"):
            folder.read_pictures(copied, 128)
