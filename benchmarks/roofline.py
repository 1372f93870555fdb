"""The training step part by part: its arithmetic, its bytes, the time both would take, and what it takes.

Bytes: every convolution and matrix product reads its inputs and writes its outputs once, and so does the
optimizer; all else is taken as fused away. Floor: the longer of the two at the rates that this machine showed
for a large matrix product and for a copy.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, timings
from cifar_resnet import numerics
from cifar_resnet.network.inference import build_normalization
from cifar_resnet.network.model import build_model
from cifar_resnet.process import memory
from cifar_resnet.randomness import generator
from cifar_resnet.training.augmentation import augment, sample
from cifar_resnet.training.optimizer import build_optimizer

COLUMNS = ("GFLOP", "MB", "floor ms", "measured ms", "floor / measured")
COUNTED = ("convolution", "convolution_backward", "addmm", "mm")


class ByteCounter(TorchDispatchMode):
    """Adds up what convolutions and matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count its tensors."""
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in COUNTED:
            self.total += sum(t.nbytes for t in tree_leaves((args, result)) if isinstance(t, Tensor))
        return result


class Head(nn.Module):
    """Pooling, the linear layer, and the loss."""

    def __init__(self, avgpool: nn.Module, fc: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.avgpool, self.fc, self.labels = avgpool, fc, labels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the mean loss."""
        return cross_entropy(self.fc(self.avgpool(x).flatten(1)).float(), self.labels)


def peaks(target: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Return the best FLOP/s of a square matrix product and the best bytes/s of a copy."""
    size = 8192 if target.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=target).to(dtype) for _ in range(2))
    source = torch.randn(2**28 if target.type == "cuda" else 2**25, device=target)
    copy = torch.empty_like(source)
    seconds = timings({"product": lambda: a @ b, "copy": lambda: copy.copy_(source)}, repeats=9)
    return 2 * size**3 / min(seconds["product"]), 2 * source.nbytes / min(seconds["copy"])


def main() -> None:
    """Measure and report."""
    numerics.set_deterministic(True)
    target = numerics.find_device("auto")
    memory.keep(target)  # as train does
    dtype = numerics.autocast_dtype("auto", target)
    size = CONFIG.batch_size if target.type == "cuda" else 128
    data = noise(size, target).channels_last()
    model: Any = build_model(CONFIG.model, 10, generator(0, "initialization")).to(target).train()
    normalization = build_normalization(CONFIG.normalization, target)
    settings = sample(CONFIG.augmentation, size, 32, generator(0, "augmentation")).to(target)
    calls: dict[str, Callable[[], object]] = {}
    work: dict[str, tuple[float, float]] = {}  # FLOPs, bytes

    def prepare(images: Tensor, *rows: Tensor) -> Tensor:
        return normalization(augment(images, type(settings)(*rows), CONFIG.augmentation.padding))

    compiled = torch.compile(prepare, fullgraph=True, dynamic=False)
    calls["augment, normalize"] = lambda: compiled(data.images, *settings)
    images = prepare(data.images, *settings)
    work["augment, normalize"] = (0, data.images.nbytes + images.nbytes)

    def add(name: str, module: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(name != "stem")

        def forward(x: Tensor) -> Tensor:
            with torch.autocast(target.type, dtype, enabled=dtype != torch.float32):
                y: Tensor = module(x)
            return y

        gradient = torch.randn_like(forward(x))

        def step(forward: Callable[[Tensor], Tensor]) -> None:
            forward(x).backward(gradient)
            x.grad = None
            module.zero_grad()

        with FlopCounterMode(display=False) as flops, ByteCounter() as moved:
            step(forward)
        work[name] = (flops.get_total_flops(), moved.total)
        made = torch.compile(forward, fullgraph=True, dynamic=False)
        calls[name] = lambda: step(made)
        return forward(x)

    x = add("stem", nn.Sequential(model.conv1, model.bn1, model.relu), images)
    for i in range(1, 5):
        x = add(f"layer{i}", getattr(model, f"layer{i}"), x)
    add("head, loss", Head(model.avgpool, model.fc, data.labels), x)
    optimizer = build_optimizer(model, CONFIG.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    weights = sum(parameter.nbytes for parameter in model.parameters())
    work["AdamW"] = (0, 7 * weights)  # reads weight, gradient, two moments; writes weight and moments

    gradients = [p.grad for p in model.parameters()]

    def adamw() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # the other parts put theirs there
        optimizer.step()

    calls["AdamW"] = adamw
    seconds = timings(calls, repeats=3 if target.type == "cpu" else 20)
    flop_rate, byte_rate = peaks(target, dtype)
    rows: list[Row] = []
    for name, (flops, moved) in work.items():
        floor, measured = max(flops / flop_rate, moved / byte_rate), statistics.median(seconds[name])
        numbers = flops / 1e9, moved / 1e6, 1e3 * floor, 1e3 * measured, floor / measured
        rows.append({"part": name, **dict(zip(COLUMNS, numbers, strict=True))})
    total = {column: sum(row[column] for row in rows) for column in COLUMNS}
    rows.append({"part": "sum", **total, "floor / measured": total["floor ms"] / total["measured ms"]})
    limits = f"{flop_rate / 1e12:.3g} TFLOP/s, {byte_rate / 1e9:.3g} GB/s"
    report("roofline", f"ResNet50, batch {size}, compiled, deterministic; measured limits {limits}", rows)


if __name__ == "__main__":
    main()
