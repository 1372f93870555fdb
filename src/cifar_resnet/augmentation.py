"""Random flip, rotation and crop of a whole batch in one gather, equal to torchvision's on PIL images.

The reference is `RandomHorizontalFlip -> RandomRotation (nearest, zero fill) -> RandomCrop (zero padding)`.
Pillow maps output pixels to source pixels in 16.16 fixed point; so does this module, and since integers
do not round, the result is the same bit for bit on every device and in every batch shape.
"""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

FIXED_POINT = 16  # fractional bits in Pillow's affine transform (libImaging/Geometry.c, affine_fixed)


class AugmentationConfig(BaseModel):
    """`flip`: probability; `rotation`: degrees either way; `padding`: pixels on each side before the crop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(ge=0, le=1)
    rotation: float = Field(ge=0, le=180)
    padding: int = Field(ge=0, le=32)


class Draws(NamedTuple):
    """One augmentation per image, on any device."""

    flip: Tensor  # (N,) bool
    matrix: Tensor  # (N, 6) int64: Pillow's inverse affine map (a, b, c, d, e, f) in 16.16 fixed point
    offset: Tensor  # (N, 2) int64: top and left of the crop in the padded image, 0 .. 2 * padding

    def to(self, device: torch.device) -> "Draws":
        """Return the same draws on `device`."""
        return Draws(*(t.to(device, non_blocking=True) for t in self))

    def rows(self, index: slice | Tensor) -> "Draws":
        """Return the draws of some of the images."""
        return Draws(*(t[index] for t in self))


def draw(config: AugmentationConfig, count: int, size: int, generator: torch.Generator) -> Draws:
    """Draw augmentations for `count` images of `size` x `size` pixels."""
    flip = torch.rand(count, generator=generator) < config.flip
    angle = (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * config.rotation
    offset = torch.randint(0, 2 * config.padding + 1, (count, 2), generator=generator)
    return Draws(flip, rotation_matrix(angle, size), offset)


def rotation_matrix(angle: Tensor, size: int) -> Tensor:
    """Return the (N, 6) int64 map of `PIL.Image.rotate(angle)` about the centre of a `size` x `size` image.

    `angle`: (N,) float64, degrees, counter-clockwise. Follows `Image.rotate` and `affine_fixed` of
    Pillow step by step, rounding included.
    """
    radians = torch.deg2rad(-(angle % 360))
    cos, sin = torch.cos(radians), torch.sin(radians)
    centre = size / 2
    c = cos * -centre + sin * -centre + centre
    f = -sin * -centre + cos * -centre + centre
    half_pixel = torch.stack([cos, sin, c + (cos + sin) * 0.5, -sin, cos, f + (cos - sin) * 0.5], dim=1)
    return torch.floor(half_pixel * 2**FIXED_POINT + 0.5).long()


def augment(images: Tensor, draws: Draws, padding: int) -> Tensor:
    """Flip, rotate and crop each image by its own draw.

    `images`: (N, C, S, S), any dtype; returns the same shape and dtype. Pixels from outside are zero.
    """
    n, channels, size, _ = images.shape
    pixel = torch.arange(size, device=images.device)
    y = (pixel + draws.offset[:, :1] - padding)[:, :, None]  # (N, S, 1): row in the rotated image
    x = (pixel + draws.offset[:, 1:] - padding)[:, None, :]  # (N, 1, S)
    a, b, c, d, e, f = draws.matrix.T[:, :, None, None]
    source_x = (a * x + b * y + c) >> FIXED_POINT
    source_y = (d * x + e * y + f) >> FIXED_POINT
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for coordinate in (x, y, source_x, source_y):
        inside = inside & (coordinate >= 0) & (coordinate < size)
    source_x = torch.where(draws.flip[:, None, None], size - 1 - source_x, source_x)
    source = torch.where(inside, source_y * size + source_x, 0).view(n, 1, -1)
    moved = images.flatten(2).gather(2, source.expand(-1, channels, -1))
    return torch.where(inside.view(n, 1, -1), moved, 0).view_as(images)
