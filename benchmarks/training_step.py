"""Training steps of the original recipe: the usual loop, then each of our ingredients added in turn."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, pad
from torch.utils.data import DataLoader, Dataset

from benchmarks.augmentation import usual
from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, speeds
from cifar_resnet import numerics
from cifar_resnet.images import Images
from cifar_resnet.network.base import Network
from cifar_resnet.network.inference import build_normalization, forward
from cifar_resnet.network.model import build_model
from cifar_resnet.process import memory
from cifar_resnet.randomness import generator
from cifar_resnet.training.augmentation import augment, sample
from cifar_resnet.training.loop import fit
from cifar_resnet.training.optimizer import build_optimizer
from cifar_resnet.training.state import new_state

REPEATS = 2
CHILD = "--child"
Batches = Iterator[tuple[Tensor, Tensor]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images through the usual per-image transforms."""

    def __init__(self, data: Images) -> None:
        self.images, self.labels = data.images.permute(0, 2, 3, 1).numpy(), data.labels.tolist()
        self.transform = usual()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class PaddedStem(nn.Conv2d):
    """The stem's convolution with a fourth input channel of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, width, H, W)."""
        one_more = (0, 0, 0, 0, 0, 1)
        return conv2d(pad(x, one_more), pad(self.weight, one_more), padding=self.padding)


class Ladder:
    """Candidates that differ in one ingredient each."""

    def __init__(self) -> None:
        self.target = numerics.find_device("auto")
        self.cuda = self.target.type == "cuda"
        self.steps = 40 if self.cuda else 1
        self.data = noise((self.steps * (REPEATS + 1) + 1) * CONFIG.batch_size, self.target)

    def from_loader(self) -> Batches:
        workers = 12 if self.cuda else torch.get_num_threads()
        loader = DataLoader(
            Pictures(self.data.to(torch.device("cpu"))),
            CONFIG.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=self.cuda,
        )
        while True:
            for pixels, classes in loader:
                yield pixels.to(self.target, non_blocking=True), classes.to(self.target, non_blocking=True)

    def from_device(self) -> Batches:
        normalization = build_normalization(CONFIG.normalization, self.target)
        data, draws = self.data.channels_last(), generator(0, "augmentation")
        while True:
            count = len(data.labels)
            order = torch.randperm(count, generator=draws).to(self.target)
            settings = sample(CONFIG.augmentation, count, 32, draws).to(self.target)
            for start in range(0, count - CONFIG.batch_size, CONFIG.batch_size):
                batch = slice(start, start + CONFIG.batch_size)
                images = augment(
                    data.images[order[batch]], settings.select(batch), CONFIG.augmentation.padding
                )
                yield normalization(images), data.labels[order[batch]]

    def network(self, memory_format: torch.memory_format = torch.channels_last) -> Network:
        model = build_model(CONFIG.model, 10, generator(0, "initialization"))
        return model.to(self.target).to(memory_format=memory_format)

    def plain_loop(self, batches: Batches, model: Network, dtype: torch.dtype, fused: bool) -> Any:
        """The loop of common repositories."""
        optimizer = (
            build_optimizer(model, CONFIG.optimizer)
            if fused
            else torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.01)
        )

        def run() -> None:
            numerics.set_deterministic(False)
            for _ in range(self.steps):
                pixels, classes = next(batches)
                with torch.autocast(self.target.type, dtype, enabled=dtype != torch.float32):
                    logits = model(pixels)
                loss = cross_entropy(logits.float(), classes)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        return run

    def our_loop(self, compiled: bool, deterministic: bool, padded_stem: bool = False) -> Callable[[], None]:
        """`fit` itself."""
        config = CONFIG.model_copy(update={"epochs": 1000, "patience": 1000})
        state = new_state(config, 10, self.target)
        if padded_stem:
            state.model.conv1.__class__ = PaddedStem
        val = Images(*(tensor[:0] for tensor in self.data))
        dtype = numerics.autocast_dtype("auto", self.target)
        loop = fit(state, config, self.data, val, dtype, compiled)

        def run() -> None:
            numerics.set_deterministic(deterministic)
            for _ in range(self.steps):
                next(loop)

        return run

    def graphs(self, mode: str) -> Callable[[], None]:
        """Our step in another mode of `torch.compile`."""
        model = self.network().train()
        optimizer = build_optimizer(model, CONFIG.optimizer)
        normalization = build_normalization(CONFIG.normalization, self.target)
        data, draws = self.data.channels_last(), generator(0, "augmentation")
        settings = sample(CONFIG.augmentation, len(data.labels), 32, draws).to(self.target)
        order = torch.randperm(len(data.labels), generator=draws).to(self.target)

        def loss_of(images: Tensor, labels: Tensor, *rows: Tensor) -> Tensor:
            augmented = augment(images, type(settings)(*rows), CONFIG.augmentation.padding)
            return cross_entropy(forward(model, augmented, normalization, torch.bfloat16), labels)

        compiled = torch.compile(loss_of, fullgraph=True, dynamic=False, mode=mode)

        def run() -> None:
            numerics.set_deterministic(False)
            for step in range(self.steps):
                batch = slice(step * CONFIG.batch_size, (step + 1) * CONFIG.batch_size)
                torch.compiler.cudagraph_mark_step_begin()
                compiled(*data.select(order[batch]), *settings.select(batch)).backward()
                optimizer.step()
                optimizer.zero_grad()

        return run


class OtherProcess:
    """Our step in a process of its own that keeps its memory (switch 1) or does not (0)."""

    def __init__(self, switch: str) -> None:
        command = [sys.executable, "-m", "benchmarks.training_step", CHILD]
        environment = os.environ | {memory.SWITCH: switch}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self) -> None:
        """Let it take its steps, and wait for them."""
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout is not None  # noqa: S101 -- of a pipe it is there
        if self.process.stdout.readline() != "done\n":
            raise RuntimeError("the process with the other settings for memory has failed")


def child() -> None:
    """Take our steps whenever the process that started this one asks for them."""
    ladder = Ladder()
    memory.keep(ladder.target)
    steps = ladder.our_loop(compiled=True, deterministic=True)
    for _ in sys.stdin:
        steps()
        print("done", flush=True)


def main() -> None:
    """Measure and report."""
    numerics.set_deterministic(True)  # cuBLAS reads its setting at the first CUDA call
    ladder = Ladder()
    full, half = torch.float32, numerics.autocast_dtype("auto", ladder.target)
    nchw = partial(ladder.network, torch.contiguous_format)
    calls = {
        "usual: DataLoader, float32, NCHW": ladder.plain_loop(ladder.from_loader(), nchw(), full, False),
        "+ augmentation on the device": ladder.plain_loop(ladder.from_device(), nchw(), full, False),
        "+ channels_last": ladder.plain_loop(ladder.from_device(), ladder.network(), full, False),
        f"+ {str(half).removeprefix('torch.')}": ladder.plain_loop(
            ladder.from_device(), ladder.network(), half, False
        ),
        "+ fused AdamW": ladder.our_loop(compiled=False, deterministic=False),
        "+ torch.compile": ladder.our_loop(compiled=True, deterministic=False),
        "+ deterministic": ladder.our_loop(compiled=True, deterministic=True),
        "  without torch.compile": ladder.our_loop(compiled=False, deterministic=True),
    }
    if not ladder.cuda:
        calls["+ memory kept (what train does)"] = OtherProcess("1")
        calls["  memory given back, in a process of its own too"] = OtherProcess("0")
    if ladder.cuda:
        calls["  stem padded to 4 channels"] = ladder.our_loop(
            compiled=True, deterministic=True, padded_stem=True
        )
        calls["  CUDA graphs, not deterministic"] = ladder.graphs("reduce-overhead")
        calls["  autotuned kernels, not deterministic"] = ladder.graphs("max-autotune-no-cudagraphs")
    images = ladder.steps * CONFIG.batch_size
    rows: list[Row] = speeds({name: (images, call) for name, call in calls.items()}, REPEATS)
    report("training_step", f"ResNet50, batch {CONFIG.batch_size}", rows)


if __name__ == "__main__":
    child() if CHILD in sys.argv else main()
