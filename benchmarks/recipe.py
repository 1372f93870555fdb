"""What the benchmarks run: the original recipe, on synthetic images."""

import torch

from benchmarks.report import RESULTS
from cifar_resnet.images import Images
from cifar_resnet.randomness import generator
from cifar_resnet.training.config import TrainConfig
from tools import recipes

CONFIG = TrainConfig(**recipes.read_recipe(RESULTS.parents[1] / "recipes/original.yaml")["train"])


def noise(count: int, device: torch.device) -> Images:
    """Return random pixels and labels: zeros would run faster than real images do."""
    draws = generator(0, "benchmark")
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return Images(pixels, torch.randint(0, 10, (count,), generator=draws)).to(device)
