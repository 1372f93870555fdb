"""CIFAR-10's batch files as tensors (https://www.cs.toronto.edu/~kriz/cifar.html, "python version")."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar_resnet import files
from cifar_resnet.data import checksums
from cifar_resnet.errors import ParamsError
from cifar_resnet.images import Images, concatenate

TRAIN_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
TEST_BATCH = "test_batch"
META = "batches.meta"
IMAGE_SIZE = 32  # pixels
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


def read_raw(name: str) -> bytes:
    """Return a batch file. Raises UserError unless its SHA-256 is the one that it was fetched with."""
    content = (files.RAW / name).read_bytes()
    checksums.check(files.RAW / name, content, checksums.read(files.RAW).get(Path(name)))
    return content


def decode_batch(content: bytes) -> Images:
    """Return the images of a batch file, whose SHA-256 has been checked."""
    document = _unpickle(content)
    pixels = torch.from_numpy(document["data"]).view(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return Images(pixels, torch.tensor(document["labels"], dtype=torch.int64))


def decode_class_names(content: bytes) -> list[str]:
    """Return the class names in `batches.meta`, in the order of the labels."""
    return [str(name) for name in _unpickle(content)["label_names"]]


def read_cifar10(image_size: int) -> tuple[list[str], Images, Images]:
    """Return the class names and the training and test images. Raises UserError when a file was changed.

    `image_size`: only 32 is right.
    """
    if image_size != IMAGE_SIZE:
        raise ParamsError(
            f"preprocess.image_size must be {IMAGE_SIZE} (it is {image_size}), as the images of this dataset"
            " have no other size; pictures of your own (fetch.dataset: folder) are resized"
        )
    names = decode_class_names(read_raw(META))
    train = concatenate(decode_batch(read_raw(name)) for name in TRAIN_BATCHES)
    return names, train, decode_batch(read_raw(TEST_BATCH))
