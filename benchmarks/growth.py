"""How time and memory grow: the stages with the number of images, the training step with the network."""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clone import Clone
from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, timings
from cifar_resnet.network import device
from cifar_resnet.network.resnet import ResNetConfig
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state

FACTORS = (1, 2, 4, 8)
NETWORKS = [
    ResNetConfig(width=width, blocks=blocks)
    for width, blocks in [
        (16, (3, 4, 6, 3)),
        (32, (3, 4, 6, 3)),
        (64, (3, 4, 6, 3)),
        (64, (1, 1, 1, 1)),
        (64, (2, 2, 2, 2)),
        (64, (3, 4, 23, 3)),
    ]
]

# A small process between: what a child starts with counts as its peak, and this process has loaded PyTorch.
CHILD = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run([sys.executable, "-m", sys.argv[1]], check=True)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measured(clone: Clone, stage: str, **environment: str) -> Row:
    """Run a stage in a process of its own; return its seconds and its peak memory in MiB."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    printed = clone.run(sys.executable, "-c", CHILD, f"stages.{stage}", **(threads | environment))
    seconds, peak = map(float, printed.split()[-2:])
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {f"{stage} s": seconds, f"{stage} MiB": peak / unit}


def stages() -> list[Row]:
    """Made-up images through the stages, once to eight times as many; then the real ones, where they are."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder) / "clone", Path(folder) / "cache")
        for factor in FACTORS:
            images = {"train_images": 6000 * factor, "test_images": 1250 * factor}
            clone.change({"fetch": {"synthetic": images}, "preprocess": {"validation_images": 600 * factor}})
            row: Row = {"images": f"{7_250 * factor:,} made-up"}
            for name in ("fetch", "preprocess", "evaluate"):
                if name == "evaluate" and factor == 1:
                    for before in ("duplicates", "train"):
                        clone.run("python", "-m", f"stages.{before}")
                row |= measured(clone, name)
            rows.append(row)
        if source := os.environ.get("CIFAR10_SOURCE"):
            clone.change({"fetch": {"dataset": "cifar10"}, "preprocess": {"validation_images": 5000}})
            row = {"images": "60,000 of CIFAR-10"}
            for name in ("fetch", "preprocess"):
                row |= measured(clone, name, CIFAR10_SOURCE=source)
            rows.append({column: row.get(column, "") for column in rows[0]})
    return rows


def networks() -> list[Row]:
    """A training step of narrower, shallower and deeper networks."""
    device.make_deterministic(True)
    target = device.select_device("auto")
    dtype = device.autocast_dtype("auto", target)
    size, steps = (256, 10) if target.type == "cuda" else (32, 1)
    data = noise(size * steps * 8, target)
    rows = []
    for network in NETWORKS:
        config = CONFIG.model_copy(update={"batch_size": size, "model": network})
        state = new_state(config, 10, target)
        loop = fit(state, config, data, data, dtype)
        with FlopCounterMode(display=False) as flops:
            next(loop)

        def run(loop: object = loop) -> None:
            for _ in range(steps):
                next(loop)  # type: ignore[call-overload]

        seconds = statistics.median(timings({"step": run}, repeats=3)["step"]) / steps
        total = flops.get_total_flops()
        rows.append(
            {
                "width and blocks": f"{network.width}, {list(network.blocks)}",
                "million weights": sum(p.numel() for p in state.model.parameters()) / 1e6,
                "GFLOP an image": total / size / 1e9,
                "ms an image": 1e3 * seconds / size,
                "TFLOP/s": total / seconds / 1e12,
            }
        )
    return rows


def main() -> None:
    """Measure and report."""
    report("growth_images", "each stage in a process of its own, imports included", stages())
    report("growth_network", "training step, not compiled, deterministic", networks())


if __name__ == "__main__":
    main()
