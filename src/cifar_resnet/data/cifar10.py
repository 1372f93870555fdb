"""CIFAR-10's batch files as tensors (https://www.cs.toronto.edu/~kriz/cifar.html, "python version")."""

import hashlib
import io
import pickle
from typing import Any

import numpy as np
import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.images import Images

TRAIN_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
TEST_BATCH = "test_batch"
META = "batches.meta"
_reconstruct = np.empty(0).__reduce__()[0]
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 1's name and NumPy 2's
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and plain containers; a file that names anything else is refused.

    See https://docs.python.org/3/library/pickle.html#restricting-globals.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _unpickle(content: bytes) -> Any:
    # latin1: the official files were pickled by Python 2
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


def write_checksums() -> None:
    """Write the SHA-256 of every raw file, in the format of `sha256sum`."""
    paths = sorted(path for path in files.RAW.iterdir() if path != files.CHECKSUMS)
    lines = [f"{files.sha256(path)}  {path.name}\n" for path in paths]
    files.write_bytes(files.CHECKSUMS, "".join(lines).encode())


def read_raw(name: str) -> bytes:
    """Return a batch file. Raises UserError unless its SHA-256 is the one that it was fetched with."""
    content = (files.RAW / name).read_bytes()
    line = f"{hashlib.sha256(content).hexdigest()}  {name}"
    if line not in files.CHECKSUMS.read_text().splitlines():
        raise UserError(
            f"{files.RAW / name} is damaged: its SHA-256 changed since it was fetched;"
            " `dvc repro --force fetch` makes it again"
        )
    return content


def decode_batch(content: bytes) -> Images:
    """Return the images of a batch file, whose SHA-256 has been checked."""
    document = _unpickle(content)
    pixels = torch.from_numpy(document["data"]).view(-1, 3, 32, 32)
    return Images(pixels, torch.tensor(document["labels"], dtype=torch.int64))


def decode_class_names(content: bytes) -> list[str]:
    """Return the class names in `batches.meta`, in the order of the labels."""
    return [str(name) for name in _unpickle(content)["label_names"]]
