"""CIFAR-10's batch files as tensors, and the split into training and validation images."""

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

TRAIN_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
TEST_BATCH = "test_batch"
META = "batches.meta"


class PreprocessConfig(BaseModel):
    """`validation_images`: how many training images are set aside, the same share of each class.

    `train_images`: how many of the others are trained on, the same share of each class; None is all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation_images: int = Field(ge=1)
    train_images: int | None = Field(ge=1)
    seed: int = Field(ge=0)


class Images(NamedTuple):
    """Images with their classes, on any device."""

    images: Tensor  # (N, 3, 32, 32) uint8, RGB
    labels: Tensor  # (N,) int64

    def to(self, device: torch.device) -> "Images":
        """Return the same images on `device`."""
        return Images(self.images.to(device), self.labels.to(device))

    def channels_last(self) -> "Images":
        """Return the same images with the channels of a pixel side by side in memory."""
        return Images(self.images.contiguous(memory_format=torch.channels_last), self.labels)

    def rows(self, index: Tensor) -> "Images":
        """Return some of the images."""
        return Images(self.images[index], self.labels[index])


class _Array:
    """Stands in for a pickled array of bytes.

    NumPy's own unpickling is not for strangers' files: it makes objects out of their bytes where they say so.
    """

    def __init__(self, *_: Any) -> None:
        self.array: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, content = state
        if not isinstance(dtype, _Dtype) or dtype.name != "u1":
            raise pickle.UnpicklingError("an array of other numbers than bytes is not allowed")
        # Python 2's bytes come as text. A copy of its own: PyTorch wants memory that it may write to.
        own = bytearray(content, "latin1") if isinstance(content, str) else bytearray(content)
        self.array = np.frombuffer(own, np.uint8).reshape(shape)


class _Dtype:
    """Stands in for a pickled dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, _: Any) -> None:
        """Byte order and alignment are nothing to single bytes."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays of bytes and plain containers; a file that names anything else is refused.

    See https://docs.python.org/3/library/pickle.html#restricting-globals.
    """

    STAND_INS: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.STAND_INS:
            return self.STAND_INS[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _unpickle(content: bytes) -> dict[str, Any]:
    # latin1: the official files were pickled by Python 2
    document = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(document, dict):
        raise pickle.UnpicklingError("not a dictionary")
    return document


def decode_batch(content: bytes) -> Images:
    """Return the images of a batch file (https://www.cs.toronto.edu/~kriz/cifar.html, "python version")."""
    document = _unpickle(content)
    data, labels = document["data"], torch.tensor(document["labels"], dtype=torch.int64)
    if not isinstance(data, _Array) or data.array.shape != (len(labels), 3072):
        raise pickle.UnpicklingError(f"no row of 3072 pixel values for each of the {len(labels)} labels")
    return Images(torch.from_numpy(data.array.reshape(-1, 3, 32, 32)), labels)


def decode_class_names(content: bytes) -> list[str]:
    """Return the class names in `batches.meta`, in the order of the labels."""
    return [str(name) for name in _unpickle(content)["label_names"]]


def concatenate(batches: Iterable[Images]) -> Images:
    """Return the images of all batches, in order."""
    images, labels = zip(*batches, strict=True)
    return Images(torch.cat(images), torch.cat(labels))


def describe(splits: Mapping[str, Images], class_names: list[str]) -> dict[str, Any]:
    """Return the images per split and class, and the training images' channel mean and std in 0..1."""
    per_class = {
        split: data.labels.bincount(minlength=len(class_names)).tolist() for split, data in splits.items()
    }
    # Exact: the counts of the 256 pixel values are integers.
    images = splits["train"].images
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(1000):
        for channel, pixels in enumerate(part.transpose(0, 1).flatten(1)):
            counts[channel] += pixels.bincount(minlength=256)
    value = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts[0].sum()
    mean = share @ value
    std = (share @ value**2 - mean**2).sqrt()
    return {
        "images": {split: sum(counts) for split, counts in per_class.items()},
        "classes": class_names,
        "images_per_class": per_class,
        "channel_mean": mean.tolist(),
        "channel_std": std.tolist(),
    }


def stratified_split(
    labels: Tensor, count: int, generator: torch.Generator, name: str = "validation_images"
) -> tuple[Tensor, Tensor]:
    """Return the sorted indices of the images left and of the `count` images chosen.

    `labels`: (N,) int64. Every class gives the same share of its images, rounded by largest remainder.
    Raises ValueError, in which `count` is called `name`, when no image of a class would be left or chosen.
    """
    classes, sizes = labels.unique(return_counts=True)
    shares = sizes.double() * count / len(labels)
    quotas = shares.floor().long()
    largest_remainders = (shares - quotas).argsort(descending=True, stable=True)
    quotas[largest_remainders[: count - int(quotas.sum())]] += 1
    if not bool(((quotas > 0) & (quotas < sizes)).all()):
        raise ValueError(
            f"{name} {count} leaves a class empty: it must be at least {len(classes)} and well"
            f" below the {len(labels)} training images to choose from"
        )
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
