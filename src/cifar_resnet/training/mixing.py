"""CutMix and mixup: an image and its label get a share of those of its neighbour in the batch.

CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899; mixup: Zhang et al. 2017,
https://arxiv.org/abs/1710.09412; both with the share drawn from Beta(1, 1), which is uniform, as there for
CIFAR. Each image has a draw of its own. Batches are shuffled, so the neighbour is a random image.
"""

from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from cifar_resnet.params import Config


class MixingConfig(Config):
    """`cutmix`, `mixup`: probability that an image is mixed so; `plain_epochs`: the last ones, unmixed."""

    cutmix: float = Field(ge=0, le=1)
    mixup: float = Field(ge=0, le=1)
    plain_epochs: int = Field(ge=0)

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.cutmix + self.mixup > 1:
            raise ValueError("cutmix and mixup must add up to at most 1")
        return self


class MixParams(NamedTuple):
    """One mixing per image, on any device."""

    box: Tensor  # (N, 4) int32: top, bottom, left, right (bottom, right excluded) of the neighbour's part
    blend: Tensor  # (N,) float32: the image's own share outside the box
    lam: Tensor  # (N,) float32: the image's own share of the label

    def to(self, device: torch.device) -> "MixParams":
        """Return the same draws on `device`."""
        return MixParams(*(t.to(device) for t in self))

    def select(self, index: int | Tensor) -> "MixParams":
        """Return the draws of some of the images."""
        return MixParams(*(t[index] for t in self))


def sample_mixing(
    config: MixingConfig, count: int, size: int, plain: bool, generator: torch.Generator
) -> MixParams:
    """Draw mixings for `count` images of `size` x `size` pixels; `plain` ones change nothing."""
    kind, share = torch.rand(2, count, generator=generator)
    kind = kind + plain
    cutmix = kind < config.cutmix
    mixup = ~cutmix & (kind < config.cutmix + config.mixup)
    # A box of the share 1 - s around a uniform centre, cut off at the borders; its area then sets the share.
    centre = torch.randint(size, (2, count), generator=generator)
    half = (size * (1 - share).sqrt() / 2).int() * cutmix
    low, high = (centre - half).clamp(min=0), (centre + half).clamp(max=size)
    box = torch.stack([low[0], high[0], low[1], high[1]], dim=1).int()
    area = (high - low).prod(0)
    blend = torch.where(mixup, share, 1.0)
    return MixParams(box, blend, torch.where(cutmix, 1 - area / size**2, blend))


def mix(images: Tensor, mixing: MixParams) -> Tensor:
    """Return each image but the first mixed with the one before it: (N, C, S, S).

    `images`: (N + 1, C, S, S), the first being the neighbour of the second alone; `mixing`: of the N others.
    """
    pixel = torch.arange(images.shape[-1], dtype=torch.int32, device=images.device)
    top, bottom, left, right = mixing.box.T[:, :, None]
    rows = ((pixel >= top) & (pixel < bottom))[:, None, :, None]
    columns = ((pixel >= left) & (pixel < right))[:, None, None, :]
    own = mixing.blend.view(-1, 1, 1, 1) * ~(rows & columns)
    mixed: Tensor = images[1:] * own + images[:-1] * (1 - own)
    return mixed


def mixed_cross_entropy(logits: Tensor, labels: Tensor, lam: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy with both labels of mixed images, weighted by their shares.

    `logits`: (N, classes) float32; `labels`: (N + 1,) int64, the first one being the neighbour's of the
    first image; `lam`: (N,) as in `MixParams`.
    """
    own, neighbours = (
        cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
        for target in (labels[1:], labels[:-1])
    )
    return (lam * own + (1 - lam) * neighbours).mean()
