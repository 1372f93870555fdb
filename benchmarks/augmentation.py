"""From stored uint8 images to a batch the network can take: one gather beside per-image transforms.

All candidates flip, rotate (nearest), crop from zero padding, and normalize.
"""

import importlib
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import report, speeds
from cifar_resnet import numerics
from cifar_resnet.network.inference import build_normalization
from cifar_resnet.randomness import generator
from cifar_resnet.training.augmentation import augment, sample

MEAN, STD = CONFIG.normalization.mean, CONFIG.normalization.std
ROTATION, PADDING = CONFIG.augmentation.rotation, CONFIG.augmentation.padding


def usual() -> Callable[[Image.Image], Tensor]:
    """The transforms of common CIFAR-10 repositories."""
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(ROTATION),
            transforms.RandomCrop(32, padding=PADDING),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return composed


def version2() -> Callable[[Tensor], Tensor]:
    """The same with torchvision's newer transforms, of tensors."""
    composed: Callable[[Tensor], Tensor] = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(ROTATION),
            v2.RandomCrop(32, padding=PADDING),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return composed


def kornia() -> nn.Module | None:
    """The same of a whole batch with Kornia, where it is installed."""
    if not importlib.util.find_spec("kornia"):
        return None
    from kornia import augmentation

    module: nn.Module = augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(),
        augmentation.RandomRotation(ROTATION, resample="nearest", p=1.0),
        augmentation.RandomCrop((32, 32), padding=PADDING),
        augmentation.Normalize(MEAN, STD),
    )
    return module


def main() -> None:
    """Measure and report."""
    target = numerics.find_device("auto")
    size = CONFIG.batch_size
    batches = 16 if target.type == "cpu" else 176
    data = noise(batches * size, target).channels_last().images
    few = data[: 2 * size].cpu()
    pictures = [Image.fromarray(image) for image in few.permute(0, 2, 3, 1).numpy()]
    normalization = build_normalization(CONFIG.normalization, target)
    draws = generator(0, "augmentation")

    def prepare(images: Tensor, rows: Tensor, *settings: Tensor) -> Tensor:
        return normalization(augment(images[rows], type(whole)(*settings), PADDING))

    whole = sample(CONFIG.augmentation, len(data), 32, draws).to(target)
    compiled = torch.compile(prepare, fullgraph=True, dynamic=False)

    def epoch(prepare: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            order = torch.randperm(len(data), generator=draws).to(target)
            settings = sample(CONFIG.augmentation, len(data), 32, draws).to(target)
            for start in range(0, len(data), size):
                batch = slice(start, start + size)
                prepare(data, order[batch], *settings.select(batch))

        return run

    one_by_one, newer, whole_batches = usual(), version2(), kornia()
    candidates: dict[str, tuple[int, Callable[[], object]]] = {
        "torchvision, PIL images, one by one": (
            len(few),
            lambda: torch.stack([one_by_one(p) for p in pictures]),
        ),
        "torchvision v2, tensors, one by one": (len(few), lambda: torch.stack([newer(i) for i in few])),
    }
    if whole_batches:
        candidates["Kornia, batches of floats"] = (
            len(few),
            lambda: [whole_batches(b.to(target) / 255) for b in few.split(size)],
        )
    candidates["one gather per batch, drawing included"] = (len(data), epoch(prepare))
    candidates["the same, compiled (what train does)"] = (len(data), epoch(compiled))
    report("augmentation", f"batches of {size} on {target.type}", speeds(candidates, repeats=9))


if __name__ == "__main__":
    main()
