"""Which of the training images are set aside for validation: the same share of each class."""

import torch
from pydantic import Field
from torch import Tensor

from cifar_resnet.errors import ParamsError
from cifar_resnet.params import Config


class PreprocessConfig(Config):
    """`image_size`: the side in pixels to which pictures are resized; ResNet halves it three times.

    `validation_images`: how many training images are set aside, the same share of each class.
    `train_images`: how many of the others are trained on, the same share of each class; None is all.
    """

    image_size: int = Field(ge=16, le=128, multiple_of=8)
    validation_images: int = Field(ge=1)
    train_images: int | None = Field(ge=1)
    seed: int = Field(ge=0)


def stratified_split(
    labels: Tensor, count: int, generator: torch.Generator, name: str = "validation_images"
) -> tuple[Tensor, Tensor]:
    """Return the sorted indices of the images left and of the `count` images chosen.

    `labels`: (N,) int64. Every class gives the same share of its images, rounded by largest remainder.
    Raises ParamsError, in which `count` is called `name`, when no image of a class would be left or chosen.
    """
    classes, sizes = labels.unique(return_counts=True)
    quotas = _quotas(sizes, count)
    if quotas is None:
        tenth = max(len(labels) // 10, len(classes))
        fitting = next((n for n in range(tenth, len(labels)) if _quotas(sizes, n) is not None), None)
        hint = f"{fitting} would do" if fitting else "a class has a single one"
        raise ParamsError(
            f"{name} {count} leaves a class empty: it must be at least {len(classes)} and well"
            f" below the {len(labels)} training images to choose from; {hint} (preprocess.{name})"
        )
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def _quotas(sizes: Tensor, count: int) -> Tensor | None:
    """How many of the `sizes` (classes,) images of each class are chosen; None if a class would be empty."""
    if count >= int(sizes.sum()):  # of any size
        return None
    shares = sizes.double() * count / sizes.sum()
    quotas = shares.floor().long()
    largest_remainders = (shares - quotas).argsort(descending=True, stable=True)
    quotas[largest_remainders[: count - int(quotas.sum())]] += 1
    return quotas if bool(((quotas > 0) & (quotas < sizes)).all()) else None
