"""Tensors and a JSON description in a safetensors file that holds its own SHA-256.

The digest is that of the file with 64 zeros in its place, so it covers every byte.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

UNSEALED = "0" * 64
KEY = "cifar_resnet"  # of the description in the file's metadata


class DamagedError(ValueError):
    """A file is not as it was written."""


def write(path: Path, tensors: dict[str, "Tensor"], about: dict[str, Any]) -> None:
    """Write tensors and their description; the same ones give the same bytes."""
    from safetensors.torch import save_file  # imports PyTorch, which reading a description does without

    metadata = json.dumps(about | {"sha256": UNSEALED}, sort_keys=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {KEY: metadata})
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        header = file.read(int.from_bytes(file.read(8), "little"))
        file.seek(8 + header.index(UNSEALED.encode()))
        file.write(digest.encode())


def _check(path: Path, file: BinaryIO) -> dict[str, Any]:
    try:
        size = file.read(8)
        header = file.read(int.from_bytes(size, "little"))
        about: dict[str, Any] = json.loads(json.loads(header)["__metadata__"][KEY])
        digest = hashlib.sha256(size + header.replace(about["sha256"].encode(), UNSEALED.encode(), 1))
        while chunk := file.read(2**20):
            digest.update(chunk)
        intact = digest.hexdigest() == about["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        intact = False
    if not intact:
        raise DamagedError(f"{path} is damaged: its SHA-256 is not the one it was written with")
    return about


def read(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors and the description, with the file's "sha256".

    Raises DamagedError when any bit is not as it was written.
    """
    from safetensors.torch import load

    content = path.read_bytes()
    about = _check(path, io.BytesIO(content))
    return load(content), about


class TensorFile:
    """A tensors file read in parts, so that memory does not grow with it; `about` is its description.

    Raises DamagedError when any bit is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        with path.open("rb") as file:
            self.about = _check(path, file)
        self.tensors = safe_open(path, "pt")

    def batches(self, name: str, size: int) -> Iterator["Tensor"]:
        """Yield the tensor `size` rows at a time."""
        rows = self.tensors.get_slice(name)
        for start in range(0, rows.get_shape()[0], size):
            yield rows[start : start + size]

    def rows(self, name: str, index: "Tensor") -> "Tensor":
        """Return some rows of the tensor. `index`: (K,) int64."""
        import torch

        rows = self.tensors.get_slice(name)
        return torch.cat([rows[:0], *(rows[i : i + 1] for i in index.tolist())])
