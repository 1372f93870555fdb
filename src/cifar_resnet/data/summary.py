"""What the data looks like: images per class and split, channel statistics, sample images."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from cifar_resnet.images import Images, truncate

GAP = 2  # pixels between sample images
ZOOM = 3  # dots for each of their pixels, fewer for large ones
WIDEST = 96  # dots of a sample image
SHOWN = 20  # classes
DPI = 100  # as files.write_figure has it


def images_per_class(splits: Mapping[str, Images], class_names: list[str]) -> pd.DataFrame:
    """Return a row per class with the number of its images in each split."""
    counts = {split: data.labels.bincount(minlength=len(class_names)) for split, data in splits.items()}
    return pd.DataFrame({"class": class_names, **{split: count.numpy() for split, count in counts.items()}})


def channel_statistics(images: Tensor) -> pd.DataFrame:
    """Return mean and standard deviation of each channel of (N, 3, H, W) uint8 images, scaled to 0..1."""
    # In integers, so that every processor rounds the same, exact numbers.
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for part in images.split(1000):
        for channel, pixels in enumerate(part.transpose(0, 1).flatten(1)):
            counts[channel] += pixels.bincount(minlength=256)
    value = torch.arange(256)
    count = int(counts[0].sum())
    sums, squares = ((counts * power).sum(1).tolist() for power in (value, value**2))
    mean = [total / (255 * count) for total in sums]
    std = [math.sqrt(count * s - t**2) / (255 * count) for s, t in zip(squares, sums, strict=True)]
    return pd.DataFrame({"channel": ["red", "green", "blue"], "mean": mean, "std": std})


def samples(data: Images, class_names: list[str], per_class: int = 8) -> Figure:
    """Show the first images of every class, a row each; of the first 20 classes when there are more."""
    height, width = data.images.shape[-2:]
    zoom = min(ZOOM, max(1, WIDEST // width))
    heading = "Training images"
    if len(class_names) > SHOWN:
        heading = f"Training images of the first {SHOWN} of {len(class_names)} classes"
        class_names = class_names[:SHOWN]
    class_names = [truncate(name, 30) for name in class_names]
    shown = torch.full((len(class_names), per_class, 3, height, width), 255, dtype=torch.uint8)
    for label in range(len(class_names)):
        first = data.images[data.labels == label][:per_class]
        shown[label, : len(first)] = first
    grid = make_grid(shown.flatten(0, 1), nrow=per_class, padding=GAP, pad_value=255)
    # Inches: a whole number of dots for each pixel, or some pixels come out wider than others.
    down, across = (zoom * side / DPI for side in grid.shape[1:])
    left, top = 0.2 + 0.1 * max(map(len, class_names)), 0.3
    figure = Figure(figsize=(left + across, down + top), dpi=DPI)
    axes = figure.add_axes((left / (left + across), 0, across / (left + across), down / (down + top)))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[GAP + row * (height + GAP) + height / 2 for row in range(len(class_names))])
    axes.set_yticklabels(class_names, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(heading, y=1 - 0.05 / (down + top))
    return figure
