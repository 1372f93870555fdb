"""Training steps of ResNet50: the usual loop, then each of our ingredients added in turn."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.report import measure, report
from cifar_resnet import device
from cifar_resnet.augmentation import AugmentationConfig, augment, draw
from cifar_resnet.inference import NormalizationConfig, build_normalization
from cifar_resnet.model import ModelConfig, ResNet, build_model
from cifar_resnet.optimizer import OptimizerConfig, build_optimizer
from cifar_resnet.randomness import generator

NORMALIZATION = NormalizationConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
AUGMENTATION = AugmentationConfig(flip=0.5, rotation=20, padding=4)
MODEL = ModelConfig(width=64, blocks=(3, 4, 6, 3))
OPTIMIZER = OptimizerConfig(lr=0.001, betas=(0.9, 0.999), weight_decay=0.01)


class Pictures(Dataset[tuple[Tensor, int]]):
    """CIFAR-sized noise through the usual per-image transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(20),
                transforms.RandomCrop(32, padding=4),
                transforms.ToTensor(),
                transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(np.asarray(self.images[index])), self.labels[index]


Batches = Iterator[tuple[Tensor, Tensor]]


def main() -> None:
    """Measure and report."""
    device.make_deterministic(True)  # cuBLAS reads its setting at the first CUDA call
    target = device.select_device("auto")
    batch_size, steps = (32, 1) if target.type == "cpu" else (256, 20)
    draws = generator(0, "benchmark")
    images = torch.randint(0, 256, (8 * 256, 3, 32, 32), dtype=torch.uint8, generator=draws)
    labels = torch.randint(0, 10, (len(images),), generator=draws)

    def from_loader() -> Batches:
        workers = torch.get_num_threads() if target.type == "cpu" else 12
        loader = DataLoader(
            Pictures(images, labels), batch_size, shuffle=True, num_workers=workers, persistent_workers=True
        )
        while True:
            for pixels, classes in loader:
                yield pixels.to(target), classes.to(target)

    def from_device() -> Batches:
        normalization = build_normalization(NORMALIZATION, target)
        on_device, classes = images.to(target), labels.to(target)
        while True:
            order = torch.randperm(len(images), generator=draws).to(target)
            settings = draw(AUGMENTATION, len(images), 32, draws).to(target)
            for start in range(0, len(images), batch_size):
                rows, batch = order[start : start + batch_size], slice(start, start + batch_size)
                yield normalization(augment(on_device[rows], settings.rows(batch), 4)), classes[rows]

    def step(
        batches: Batches,
        model: ResNet,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype,
        deterministic: bool = False,
    ) -> Callable[[], None]:
        def run() -> None:
            device.make_deterministic(deterministic)
            for _ in range(steps):
                pixels, classes = next(batches)
                with torch.autocast(target.type, dtype, enabled=dtype != torch.float32):
                    logits = model(pixels)
                loss = cross_entropy(logits.float(), classes)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        return run

    def network(memory_format: torch.memory_format) -> ResNet:
        model = build_model(MODEL, 10, generator(0, "initialization"))
        return model.to(target).to(memory_format=memory_format)

    def usual(model: ResNet) -> torch.optim.AdamW:
        return torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.01)

    nchw, nhwc = torch.contiguous_format, torch.channels_last
    plain, ours, last = network(nchw), network(nhwc), network(nhwc)
    data_only = network(nchw)
    bf16, strict = network(nhwc), network(nhwc)
    count = batch_size * steps
    candidates = {
        "usual: DataLoader, float32, NCHW": (count, step(from_loader(), plain, usual(plain), torch.float32)),
        "+ augmentation on the device": (
            count,
            step(from_device(), data_only, usual(data_only), torch.float32),
        ),
        "+ channels_last": (count, step(from_device(), ours, usual(ours), torch.float32)),
        "+ bfloat16": (count, step(from_device(), bf16, usual(bf16), torch.bfloat16)),
        "+ fused AdamW": (count, step(from_device(), last, build_optimizer(last, OPTIMIZER), torch.bfloat16)),
        "+ deterministic (what train does)": (
            count,
            step(
                from_device(), strict, build_optimizer(strict, OPTIMIZER), torch.bfloat16, deterministic=True
            ),
        ),
    }
    report("training_step", f"ResNet50, batch {batch_size}", measure(candidates, repeats=5))


if __name__ == "__main__":
    main()
