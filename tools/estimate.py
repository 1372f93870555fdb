"""What a run of a recipe would cost, by its arithmetic: for recipes that nobody has measured."""

import functools
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from cifar_resnet.network.model import ModelConfig, build_model, read_config
from cifar_resnet.network.resnet import ResNetConfig
from cifar_resnet.randomness import generator
from tools.recipes import whole

TRAINING_IMAGES = 50_000  # of CIFAR-10, before validation images are taken from them
MEASURED = Path("benchmarks/results/training_step-cpu.json")
MEASURED_ROW = "+ memory kept (what train does)"
# Images per second of ResNet50 on an A100: 2,470 at 224 pixels with PyTorch's AMP
# (https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/ConvNets/resnet50v1.5),
# times 3.15, because an image takes 3.15 times fewer FLOPs here.
GPU_IMAGES = 7_800
RESNET50 = ResNetConfig(width=64, blocks=(3, 4, 6, 3))


def at_full_size(recipe: Path) -> bool:
    """Return whether a recipe trains on all images of CIFAR-10."""
    params = whole(recipe)
    return params["fetch"]["dataset"] == "cifar10" and params["preprocess"]["train_images"] is None


def cpu_images() -> float:
    """Return the images per second of ResNet50 that two CPU cores were measured at."""
    rows = json.loads(MEASURED.read_text())["rows"]
    return float(next(row["images/s"] for row in rows if row["candidate"] == MEASURED_ROW))


def images(recipe: Path) -> int:
    """Return how many images a run trains on, all epochs together, unless it stops early."""
    params = whole(recipe)
    held_out = 0 if params["train"]["all_images"] else params["preprocess"]["validation_images"]
    return int(
        params["train"]["epochs"] * (params["preprocess"]["train_images"] or TRAINING_IMAGES - held_out)
    )


@functools.cache
def flops(network: ModelConfig) -> int:
    """Return the FLOPs of one image's forward pass."""
    model = build_model(network, 10, generator(0, "initialization")).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops())


def hours(recipe: Path) -> tuple[float, float]:
    """Return the hours of a run on two CPU cores and on one GPU: images times FLOPs, at ResNet50's speed."""
    network = read_config(whole(recipe)["train"]["model"])
    work = images(recipe) * flops(network) / flops(RESNET50)
    return work / cpu_images() / 3600, work / GPU_IMAGES / 3600
