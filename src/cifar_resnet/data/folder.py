"""Pictures in folders, as torchvision's ImageFolder has them: train/CLASS/* and test/CLASS/*."""

import os
import shutil
from io import BytesIO
from pathlib import Path
from unicodedata import category, normalize

import torch
from tqdm import tqdm

from cifar_resnet import files
from cifar_resnet.data import checksums
from cifar_resnet.data.pictures import UnreadableError, extensions, is_picture, read
from cifar_resnet.errors import UserError
from cifar_resnet.images import Images

SPLITS = ("train", "test")
SHOWN = 10  # names in a message
UNSHOWN = {"Cc", "Cs"}  # categories of Unicode: control characters, bytes that are no text
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # bytes that Linux allows a container
MEMORY_FACTOR = 4  # of the images that are in memory while they are split and written


def class_names(folder: Path) -> list[str]:
    """Return the names of the classes, sorted: the folders in train, and the same in test.

    Raises UserError when there are fewer than two, when train and test have not the same, or when a name
    cannot be shown or looks like another one.
    """
    found = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise UserError(f"{folder} has no folder {split!r}: it needs train/CLASS and test/CLASS")
        inner = (path.name for path in (folder / split).iterdir() if path.is_dir())
        found[split] = {name for name in inner if not name.startswith(".")}
    every = sorted(set.union(*found.values()))
    if odd := [ascii(name) for name in every if any(category(char) in UNSHOWN for char in name)]:
        raise UserError(f"{folder}: a class's name must be text without control characters, not {_some(odd)}")
    forms = {normalize("NFC", name): name for name in every}
    if twins := [ascii(name) for name in every if forms[normalize("NFC", name)] != name]:
        raise UserError(f"{folder}: {_some(twins)} is there in two spellings of Unicode: rename the folders")
    missing = [str(folder / split / name) for split in SPLITS for name in every if name not in found[split]]
    if missing:
        raise UserError(f"train and test must have the same classes; not there: {_some(missing)}")
    if len(every) < 2:
        raise UserError(f"{folder / 'train'} must have at least two folders, one for each class")
    return every


def pictures(folder: Path, split: str, classes: list[str]) -> list[tuple[Path, int]]:
    """Return the pictures of a split with their labels. Raises UserError when a class has none.

    A picture is a file, in the folder of its class or below, that is named as a format which Pillow reads.
    """
    known, root, found = extensions(), folder.resolve(), []
    for label, name in enumerate(classes):
        paths = _files(folder / split / name, root)
        found += [(path, label) for path in paths if path.name.lower().endswith(known)]
    if empty := sorted(set(classes) - {classes[label] for _, label in found}):
        raise UserError(f"{folder / split} has no picture of {_some(empty)}")
    return found


def _files(folder: Path, root: Path) -> list[Path]:
    """Return all files in `folder` and below, sorted, those in hidden folders left out.

    Links to folders are followed, each folder once. Raises UserError for one that leads out of `root`.
    """
    found, seen = [], set()
    for place, below, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if not real.is_relative_to(root):
            raise UserError(f"{place} is a link to a folder elsewhere: put a copy of {real} in its place")
        below[:] = sorted(name for name in below if not name.startswith(".")) if real not in seen else []
        found += [(place, name) for name in names] if real not in seen else []
        seen.add(real)
    return [Path(*pair) for pair in sorted(found)]


def copy(source: Path, destination: Path) -> str:
    """Copy the pictures of both splits and write their SHA-256; return what there is, in words.

    Raises UserError as `class_names` and `pictures` do, and for a picture that is a link to something else.
    Until all is copied, `destination` stays as it is.
    """
    classes, root = class_names(source), source.resolve()
    found = {split: pictures(source, split, classes) for split in SPLITS}
    listed = [path for split in found.values() for path, _ in split]
    for path in listed:
        shown = str(path.relative_to(source))
        if any(category(char) in UNSHOWN for char in shown):  # DVC cannot note bytes that are no text
            raise UserError(f"{str(path)!r} has a control character in its name, or no text: rename it")
        if not path.is_file() or not (path.resolve().is_relative_to(root) or is_picture(path)):
            raise UserError(f"{path} leads to no picture ({os.path.realpath(path)}): remove it")
    with files.replacing_folder(destination) as new:
        for path in listed:
            target = new / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        checksums.write(new)
    inside = (source / split / name for split in SPLITS for name in classes)
    others = sorted({path for folder in inside for path in _files(folder, root)} - set(listed))
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in found.items())
    told = f"{counts} pictures of {len(classes)} classes from {source}"
    if others:  # perhaps photos in a format of their own
        told += f"; {len(others)} left out, as not named as pictures, such as {others[0]}"
    return told


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def read_pictures(folder: Path, image_size: int) -> tuple[list[str], Images, Images]:
    """Return the class names and the training and test images of what `copy` made.

    `image_size`: S of (N, 3, S, S), in pixels. Raises UserError that names pictures which cannot be
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
            f"{len(broken)} of {sum(map(len, found.values()))} pictures cannot be read: {_some(broken)};"
            " mend or remove them where they come from (fetch.folder), then run `dvc repro`"
        )
    return classes, splits[0], splits[1]


def _check_memory(count: int, size: int) -> None:
    needed = MEMORY_FACTOR * count * 3 * size**2
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CONTAINER.exists() and (limit := CONTAINER.read_text().strip()) != "max":
        memory = min(memory, int(limit))
    if needed > memory:
        raise UserError(
            f"{count:,} pictures of {size} x {size} pixels need {needed / 1e9:.1f} GB of memory, this machine"
            f" has {memory / 1e9:.1f}; lower preprocess.image_size"
        )
