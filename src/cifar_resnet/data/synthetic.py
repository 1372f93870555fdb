"""A small made-up data set in CIFAR-10's file format: ten drawn shapes on noise, for demos and tests."""

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cifar_resnet.params import Config

SHAPES = ["disk", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "columns", "checkers"]
SIZE = 32


class SyntheticConfig(Config):
    """How many images to draw; a tenth of them of each shape."""

    train_images: int = Field(ge=50, le=50_000, multiple_of=50)  # five batch files, ten shapes
    test_images: int = Field(ge=10, le=10_000, multiple_of=10)
    seed: int = Field(ge=0)


def masks(labels: NDArray[Any], centre: NDArray[Any], radius: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the (N, 32, 32) pixels covered by each shape.

    `labels`: (N,) index into SHAPES; `centre`: (N, 2) row and column; `radius`: (N,), all in pixels.
    """
    pixel = np.arange(SIZE) + 0.5
    y = ((pixel - centre[:, :1]) / radius[:, None])[:, :, None]  # -1 .. 1 inside the shape
    x = ((pixel - centre[:, 1:]) / radius[:, None])[:, None, :]
    distance = np.hypot(x, y)
    box = np.maximum(np.abs(x), np.abs(y))
    inside = box < 1
    stripe_y, stripe_x = (np.floor((z + 1) * 2.5) % 2 == 0 for z in (y, x))
    drawn = [
        distance < 1,
        (distance < 1) & (distance > 0.55),
        box < 0.85,
        (box < 0.9) & (box > 0.5),
        inside & (np.abs(x) < (y + 1) / 2),
        inside & ((np.abs(x) < 0.3) | (np.abs(y) < 0.3)),
        inside & ((np.abs(x - y) < 0.42) | (np.abs(x + y) < 0.42)),
        inside & stripe_y,
        inside & stripe_x,
        inside & (stripe_y ^ stripe_x),
    ]
    return np.choose(labels[:, None, None], drawn)


def draw_images(labels: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one (N, 3, 32, 32) image per label: a shape of random place, size and colours under noise."""
    n = len(labels)
    centre = rng.uniform(11, 21, (n, 2))
    radius = rng.uniform(7, 12, n)
    background = rng.uniform(0, 1, (n, 3, 1, 1))
    contrast = rng.uniform(0.25, 0.6, (n, 3, 1, 1))  # every channel differs visibly
    foreground = np.where(background > 0.5, background - contrast, background + contrast)
    images = np.where(masks(labels, centre, radius)[:, None], foreground, background)
    images += rng.normal(0, 0.12, images.shape)
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def synthetic_files(config: SyntheticConfig) -> dict[str, bytes]:
    """Return the seven files of `cifar-10-batches-py`, by name, with drawn shapes for images."""
    counts = {f"data_batch_{i}": config.train_images // 5 for i in range(1, 6)}
    counts["test_batch"] = config.test_images
    files = {}
    for index, (name, count) in enumerate(counts.items()):
        rng = np.random.default_rng([config.seed, index])
        labels = rng.permutation(np.arange(count) % len(SHAPES))
        document = {"labels": labels.tolist(), "data": draw_images(labels, rng).reshape(count, -1)}
        files[name] = pickle.dumps(document, protocol=4)  # protocol 5 would store the array in another way
    return files | {"batches.meta": pickle.dumps({"label_names": SHAPES}, protocol=4)}
