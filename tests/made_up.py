"""Made-up images, what a figure shows, and damage to a file."""

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar_resnet.images import Images


def random_images(count: int, classes: int = 10, seed: int = 0) -> Images:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Images(images, torch.randint(classes, (count,), generator=random))


def png(figure: Figure) -> bytes:
    """As `cifar_resnet.files.write_figure` writes it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def shown(figure: Figure) -> list[tuple[str, NDArray[np.uint8]]]:
    """The title and the (H, W, 3) pixels of each picture."""
    pictures = [(axes.get_title(), axes.get_images()) for axes in figure.axes]
    return [(title, np.asarray(images[0].get_array())) for title, images in pictures if images]


def flip_a_bit(path: Path, byte: int = -1) -> None:
    """Damage a file in its last byte or another one."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)
