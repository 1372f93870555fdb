"""The pictures that a command line names: files, folders, standard input."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from torch import Tensor

from cifar_resnet.data.pictures import UnreadableError, extensions, read


def _read_path(path: str, size: int) -> Tensor | UnreadableError:
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            return read(file, size)
    except OSError as error:
        return UnreadableError(error.strerror)
    except UnreadableError as error:
        return error


def find(name: str, size: int) -> Iterator[tuple[str, Tensor | UnreadableError]]:
    """Yield the path and the image of a picture file; of all in a folder, sorted, and then below it; of `-`,
    standard input.

    Images are (3, S, S) uint8, as `data.pictures.convert` returns them; `size`: S, in pixels. What cannot be
    read comes with the reason instead; so does a folder without a file that has one of the extensions of
    Pillow's formats.
    """
    if name == "-" or not Path(name).is_dir():
        yield name, _read_path(name, size)
        return
    known, empty = extensions(), True
    errors: list[OSError] = []
    for folder, below, files in os.walk(name, onerror=errors.append):
        below.sort()  # os.walk goes on in this order
        for path in (str(Path(folder, file)) for file in sorted(files) if Path(file).suffix.lower() in known):
            empty = False
            yield path, _read_path(path, size)
    for error in errors:
        yield error.filename, UnreadableError(error.strerror)
    if empty and not errors:
        yield name, UnreadableError("no picture in this folder")
