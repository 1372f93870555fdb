"""Test images that are nearly in the training data: the same shot, cropped, shifted, mirrored or recoloured.

About 3 % of CIFAR-10's test images have such a twin among the training images, which people found by eye
(Barz and Denzler 2020, https://arxiv.org/abs/1902.00423). A network may know them by heart.
"""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad

CANDIDATES = 10  # training images that are looked at closely, per test image and its mirror image
ALIKE = 0.75  # correlation at half resolution below which they are not
SHIFT = 3  # pixels either way


class CompareConfig(BaseModel):
    """`threshold`: correlation of details from which two images count as near-duplicates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(gt=0, le=1)


class Twins(NamedTuple):
    """Pairs of similar images, the most similar first; no test image is in two."""

    test: Tensor  # (K,) int64: which test image
    train: Tensor  # (K,) int64: which training image
    mirrored: Tensor  # (K,) bool: whether it is its mirror image that is similar
    correlation: Tensor  # (K,) float32: of their details


def _unit(x: Tensor) -> Tensor:
    """(N, ...) to (N, D) rows of mean 0 and length 1, whose products are correlations."""
    x = x.flatten(1)
    return normalize(x - x.mean(1, keepdim=True), dim=1, eps=1e-6)


def _layout(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to their colours at half resolution, as units."""
    return _unit(torch.cat([avg_pool2d(part.float(), 2).flatten(1) for part in images.split(1000)]))


def _details(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to (N, 1, S, S): what brightness has beyond the mean of the 5x5 around it."""
    parts = []
    for part in images.split(1000):
        grey = part.float().mean(1, keepdim=True)
        parts.append(grey - avg_pool2d(pad(grey, (2, 2, 2, 2), mode="reflect"), 5, 1))
    return torch.cat(parts)


def _closest_shift(one: Tensor, other: Tensor) -> Tensor:
    """(N, 1, S, S) details, pair by pair, to (N,) correlations at the shift where they agree best."""
    inside = slice(SHIFT, one.shape[-1] - SHIFT)
    middle, size = _unit(one[:, :, inside, inside]), one.shape[-1] - 2 * SHIFT
    best = torch.full((len(one),), -1.0)
    for top in range(2 * SHIFT + 1):
        for left in range(2 * SHIFT + 1):
            shifted = _unit(other[:, :, top : top + size, left : left + size])
            best = torch.maximum(best, (middle * shifted).sum(1))
    return best


def find_twins(test: Tensor, train: Tensor, config: CompareConfig) -> Twins:
    """Return the near-duplicates between test and training images, both (N, 3, S, S) uint8, on the CPU.

    Two steps: the training images whose layout (colours at half resolution) correlates most with that of
    the test image or of its mirror image; then, of these, the one whose details correlate most, at any
    shift by up to 3 pixels. Skies and seas agree in the first step, copies in the second one too.
    """
    layouts, details = _layout(train), _details(train)
    count = min(CANDIDATES, len(train))
    twin = torch.zeros(len(test), dtype=torch.int64)
    mirrored = torch.zeros(len(test), dtype=torch.bool)
    correlation = torch.full((len(test),), -1.0)
    for start in range(0, len(test), 500):
        part = slice(start, start + 500)
        for mirror in (False, True):
            images = test[part].flip(3) if mirror else test[part]
            alike, candidates = (_layout(images) @ layouts.T).topk(count, dim=1)
            close = torch.full(alike.shape, -1.0)
            own, rank = (alike >= ALIKE).nonzero(as_tuple=True)
            close[own, rank] = _closest_shift(_details(images)[own], details[candidates[own, rank]])
            best, rank = close.max(1)
            better = best > correlation[part]
            twin[part][better] = candidates.gather(1, rank[:, None])[better, 0]
            mirrored[part][better] = mirror
            correlation[part][better] = best[better]
    order = correlation.argsort(descending=True, stable=True)
    found = order[correlation[order] >= config.threshold]
    return Twins(found, twin[found], mirrored[found], correlation[found])
