"""Random flip, rotation and crop of a whole batch in one gather, equal to torchvision's on PIL images.

The reference is `RandomHorizontalFlip -> RandomRotation (nearest, zero fill) -> RandomCrop (zero padding)`.
Pillow maps output pixels to source pixels in 16.16 fixed point; so does this module, and since integers
do not round, the result is the same bit for bit on every device and in every batch shape.
`epoch_plan` in loop.py makes the generator that `sample` draws from.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from cifar_resnet.params import Config

FIXED_POINT = 16  # fractional bits in Pillow's affine transform (libImaging/Geometry.c, affine_fixed)


class AugmentationConfig(Config):
    """`flip`: probability; `rotation`: degrees either way; `padding`: pixels on each side before the crop.

    `cutout`: side in pixels of a square of zeros around a random pixel of the result, cut off at the border
    (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552); 0 is none.
    """

    flip: float = Field(ge=0, le=1)
    rotation: float = Field(ge=0, le=180)
    padding: int = Field(ge=0, le=32)
    cutout: int = Field(ge=0, le=64, multiple_of=2)


class AugmentationParams(NamedTuple):
    """One augmentation per image, on any device."""

    affine: Tensor  # (N, 6) int32: output to source pixel as Pillow's (a, b, c, d, e, f) in 16.16 fixed point
    offset: Tensor  # (N, 2) int32: top and left of the crop in the padded image, 0 .. 2 * padding
    cutout_box: Tensor  # (N, 4) int32: top, bottom, left, right of the square; bottom, right excluded

    def to(self, device: torch.device) -> "AugmentationParams":
        """Return the same draws on `device`."""
        return AugmentationParams(*(t.to(device) for t in self))

    def select(self, index: int | slice | Tensor) -> "AugmentationParams":
        """Return the draws of some of the images."""
        return AugmentationParams(*(t[index] for t in self))


def sample(
    config: AugmentationConfig, count: int, size: int, generator: torch.Generator
) -> AugmentationParams:
    """Draw augmentations for `count` images of `size` x `size` pixels."""
    flip = torch.rand(count, generator=generator) < config.flip
    angle = (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * config.rotation
    offset = torch.randint(0, 2 * config.padding + 1, (count, 2), generator=generator)
    centre = torch.randint(0, size, (count, 2), generator=generator)
    cutout_box = torch.stack([centre - config.cutout // 2, centre + config.cutout // 2], dim=2)
    return AugmentationParams(affine(flip, angle, size), offset.int(), cutout_box.flatten(1).int())


def affine(flip: Tensor, angle: Tensor, size: int) -> Tensor:
    """Return the (N, 6) int32 map of a flip, then `PIL.Image.rotate(angle)`, of `size` x `size` pixels.

    `flip`: (N,) bool; `angle`: (N,) float64, degrees, counter-clockwise about the centre. Follows
    `Image.rotate` and `affine_fixed` of Pillow step by step, rounding included.
    """
    radians = torch.deg2rad(-(angle % 360))
    cos, sin = torch.cos(radians), torch.sin(radians)
    centre = size / 2
    c = cos * -centre + sin * -centre + centre
    f = -sin * -centre + cos * -centre + centre
    half_pixel = torch.stack([cos, sin, c + (cos + sin) * 0.5, -sin, cos, f + (cos - sin) * 0.5], dim=1)
    fixed = torch.floor(half_pixel * 2**FIXED_POINT + 0.5).int()
    # Column v >> 16 becomes (size - 1) - (v >> 16), which is ((size << 16) - 1 - v) >> 16.
    flipped = torch.tensor([0, 0, (size << FIXED_POINT) - 1], dtype=torch.int32) - fixed[:, :3]
    fixed[:, :3] = torch.where(flip[:, None], flipped, fixed[:, :3])
    return fixed


def augment(images: Tensor, draws: AugmentationParams, padding: int) -> Tensor:
    """Flip, rotate and crop each image, then cut a square out of it, by its own draw.

    `images`: (N, C, S, S) of finite numbers, fastest in channels_last; returns the same shape and dtype in
    channels_last. Pixels from outside are zero.
    """
    n, channels, size, _ = images.shape
    last = size - 1
    pixel = torch.arange(size, dtype=torch.int32, device=images.device)
    y = pixel + (draws.offset[:, :1] - padding)  # (N, S): row in the rotated image
    x = pixel + (draws.offset[:, 1:] - padding)
    a, b, c, d, e, f = draws.affine.T[:, :, None]
    source_x = (b * y + c)[:, :, None] + (a * x)[:, None, :] >> FIXED_POINT  # (N, S, S)
    source_y = (e * y + f)[:, :, None] + (d * x)[:, None, :] >> FIXED_POINT
    # v | last - v is negative just where v is outside 0 .. last
    inside = (source_x | last - source_x | source_y | last - source_y) >= 0
    inside = inside & ((y | last - y) >= 0)[:, :, None] & ((x | last - x) >= 0)[:, None, :]
    top, bottom, left, right = draws.cutout_box.T[:, :, None]
    rows, columns = (pixel < top) | (pixel >= bottom), (pixel < left) | (pixel >= right)
    inside = inside & (rows[:, :, None] | columns[:, None, :])
    first = torch.arange(n, device=images.device)[:, None, None] * size**2
    source = torch.where(inside, source_y * size + source_x, 0) + first
    pixels = images.permute(0, 2, 3, 1).reshape(n * size**2, channels)
    moved = pixels.index_select(0, source.flatten()).view(n, size, size, channels)
    augmented: Tensor = (moved * inside[..., None]).permute(0, 3, 1, 2)
    return augmented
