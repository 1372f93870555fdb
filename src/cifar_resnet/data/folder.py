"""Pictures in folders, as torchvision's ImageFolder has them: train/CLASS/* and test/CLASS/*."""

import os
import shutil
from io import BytesIO
from pathlib import Path

import torch
from torchvision.datasets.folder import make_dataset
from tqdm import tqdm

from cifar_resnet.data import checksums
from cifar_resnet.data.pictures import UnreadableError, extensions, read
from cifar_resnet.files.params import UserError
from cifar_resnet.images import Images

SPLITS = ("train", "test")
COPIES = 4  # of the images that are in memory while they are split and written


def class_names(folder: Path) -> list[str]:
    """Return the names of the classes, sorted: the folders in train, and the same in test.

    Raises UserError when there are fewer than two or when train and test have not the same.
    """
    found = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise UserError(f"{folder} has no folder {split!r}: it needs train/CLASS and test/CLASS")
        inner = (path.name for path in (folder / split).iterdir() if path.is_dir())
        found[split] = {name for name in inner if not name.startswith(".")}
    every = sorted(set.union(*found.values()))
    missing = [str(folder / split / name) for split in SPLITS for name in every if name not in found[split]]
    if missing:
        raise UserError(f"train and test must have the same classes; not there: {', '.join(missing)}")
    if len(found["train"]) < 2:
        raise UserError(f"{folder / 'train'} must have at least two folders, one for each class")
    return sorted(found["train"])


def pictures(folder: Path, split: str, classes: list[str]) -> list[tuple[Path, int]]:
    """Return the pictures of a split with their labels. Raises UserError when a class has none.

    A picture is a file, in the folder of its class or below, that is named as a format which Pillow reads.
    """
    labels = {name: label for label, name in enumerate(classes)}
    found = make_dataset(folder / split, labels, tuple(extensions()), allow_empty=True)
    if empty := [name for name, label in labels.items() if label not in {label for _, label in found}]:
        raise UserError(f"{folder / split} has no picture of {', '.join(empty)}")
    return [(Path(path), label) for path, label in found]


def copy(source: Path, destination: Path) -> str:
    """Copy the pictures of both splits and write their SHA-256; return what there is, in words.

    Raises UserError as `class_names` and `pictures` do. Until all is copied, `destination` stays as it is.
    """
    classes = class_names(source)
    found = {split: pictures(source, split, classes) for split in SPLITS}
    new = destination.with_name(f".{destination.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    for path, _ in (picture for split in found.values() for picture in split):
        target = new / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    checksums.write(new)
    shutil.rmtree(destination, ignore_errors=True)
    new.rename(destination)
    counts = ", ".join(f"{len(listed)} {split}" for split, listed in found.items())
    return f"{counts} pictures of {len(classes)} classes from {source}" + _left_out(source, classes, found)


def _left_out(source: Path, classes: list[str], found: dict[str, list[tuple[Path, int]]]) -> str:
    """What the folders of classes hold beside pictures, in words: perhaps photos in a format of their own."""
    known = {path for listed in found.values() for path, _ in listed}
    inside = (source / split / name for split in SPLITS for name in classes)
    others = sorted({path for folder in inside for path in folder.rglob("*") if path.is_file()} - known)
    if not others:
        return ""
    return f"; not named as pictures, and left out: {len(others)} of the files there, such as {others[0]}"


def read_pictures(folder: Path, image_size: int) -> tuple[list[str], Images, Images]:
    """Return the class names and the training and test images of what `copy` made.

    `image_size`: S of (N, 3, S, S), in pixels. Raises UserError that names every picture which cannot be
    read, or when the images are too many for this machine's memory.
    """
    classes = class_names(folder)
    found = {split: pictures(folder, split, classes) for split in SPLITS}
    _check_memory(sum(map(len, found.values())), image_size)
    sums = checksums.read(folder)
    broken, splits = [], []
    for split, listed in found.items():
        images = torch.empty(len(listed), 3, image_size, image_size, dtype=torch.uint8)
        for row, (path, _) in enumerate(tqdm(listed, split, leave=False, disable=None)):
            content = path.read_bytes()
            checksums.check(path, content, sums.get(path.relative_to(folder)))
            try:
                images[row] = read(BytesIO(content), image_size)
            except UnreadableError as error:
                broken.append(f"{path.relative_to(folder)} ({error})")
        splits.append(Images(images, torch.tensor([label for _, label in listed])))
    if broken:
        raise UserError(
            f"{len(broken)} of {sum(map(len, found.values()))} pictures cannot be read: {', '.join(broken)};"
            " mend or remove them where they come from (fetch.folder), then run `dvc repro`"
        )
    return classes, splits[0], splits[1]


def _check_memory(count: int, size: int) -> None:
    needed = COPIES * count * 3 * size**2
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"{count:,} pictures of {size} x {size} pixels need {needed / 1e9:.1f} GB of memory, this machine"
            f" has {memory / 1e9:.1f}; lower preprocess.image_size"
        )
