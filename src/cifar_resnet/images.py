"""Labelled images as tensors, and a figure of many small ones."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor


class Images(NamedTuple):
    """Images with their classes, on any device."""

    images: Tensor  # (N, 3, S, S) uint8, RGB
    labels: Tensor  # (N,) int64

    def to(self, device: torch.device) -> "Images":
        """Return the same images on `device`."""
        return Images(self.images.to(device), self.labels.to(device))

    def channels_last(self) -> "Images":
        """Return the same images with the channels of a pixel side by side in memory."""
        return Images(self.images.contiguous(memory_format=torch.channels_last), self.labels)

    def select(self, index: Tensor) -> "Images":
        """Return some of the images."""
        return Images(self.images[index], self.labels[index])


def concatenate(batches: Iterable[Images]) -> Images:
    """Return the images of all batches, in order."""
    images, labels = zip(*batches, strict=True)
    return Images(torch.cat(images), torch.cat(labels))


def truncate(text: str, longest: int = 20) -> str:
    """Return each line of `text` cut to `longest` characters, the last of which then is an ellipsis."""
    lines = (line if len(line) <= longest else f"{line[: longest - 1]}…" for line in text.split("\n"))
    return "\n".join(lines)


def image_grid(images: Tensor, titles: list[str], columns: int, heading: str) -> Figure:
    """Show (N, 3, H, W) uint8 images with a title above each."""
    rows = -(-len(images) // columns)
    width = 1.35 * images.shape[-1] / images.shape[-2]
    figure = Figure(figsize=(width * columns, 1.65 * rows + 0.5), layout="constrained")
    figure.suptitle(heading)
    for cell in range(rows * columns):
        axes = figure.add_subplot(rows, columns, cell + 1)
        axes.set_axis_off()
        if cell < len(images):
            axes.imshow(images[cell].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(truncate(titles[cell]), fontsize=8, parse_math=False)  # $ is a $
    return figure
