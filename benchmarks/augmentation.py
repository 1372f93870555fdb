"""Augmentation: one gather for the whole batch beside torchvision's per-image transforms.

The candidates compute the same thing: horizontal flip, rotation (nearest), zero-padded crop.
"""

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.report import measure, report
from cifar_resnet import device
from cifar_resnet.augmentation import AugmentationConfig, augment, draw
from cifar_resnet.randomness import generator

CONFIG = AugmentationConfig(flip=0.5, rotation=20, padding=4)
COUNT = 512


def main() -> None:
    """Measure and report."""
    target = device.select_device("auto")
    draws = generator(0, "benchmark")
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=draws)
    pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    with_pil = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(20),
            transforms.RandomCrop(32, padding=4),
        ]
    )
    with_v2 = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(20), v2.RandomCrop(32, padding=4)])
    many = 16 if target.type == "cpu" else 2000
    dataset = images.repeat(many, 1, 1, 1).to(target)

    def ours() -> object:
        settings = draw(CONFIG, len(dataset), 32, draws).to(target)
        return [
            augment(
                dataset[start : start + COUNT], settings.rows(slice(start, start + COUNT)), CONFIG.padding
            )
            for start in range(0, len(dataset), COUNT)
        ]

    candidates = {
        "torchvision, PIL images, one by one": (COUNT, lambda: [np.asarray(with_pil(p)) for p in pictures]),
        "torchvision v2, tensors, one by one": (COUNT, lambda: [with_v2(image) for image in images]),
        "one gather per batch, drawing included": (len(dataset), ours),
    }
    report("augmentation", f"batches of {COUNT} on {target.type}", measure(candidates, repeats=7))


if __name__ == "__main__":
    main()
