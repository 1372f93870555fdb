"""Timing, the table on the console, and the JSON file that docs and later runs read."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cifar_resnet import device

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Measurement:
    """Images per second of one candidate, over repeats taken in turn with the other candidates'."""

    name: str
    median: float
    lowest: float
    highest: float


def measure(candidates: Mapping[str, tuple[int, Callable[[], object]]], repeats: int) -> list[Measurement]:
    """Time each candidate (images per call, call) once to warm up, then in turn `repeats` times.

    In turn, so that a machine that slows down for a while slows all of them.
    """
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, (images, call) in candidates.items():
            synchronize()
            started = time.perf_counter()
            call()
            synchronize()
            if repeat:
                speeds[name].append(images / (time.perf_counter() - started))
    return [Measurement(name, statistics.median(s), min(s), max(s)) for name, s in speeds.items()]


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(name: str, settings: str, measurements: list[Measurement]) -> None:
    """Print the candidates beside the first, the usual way, and write results/NAME-DEVICE.json."""
    target = device.select_device("auto")
    hardware = device.fingerprint(target) | {"processor": processor(), "python": platform.python_version()}
    first = measurements[0].median
    print(f"\n{name}: {settings}\n{hardware}\n")
    print(f"{'':44}{'images/s':>12}{'lowest':>12}{'highest':>12}{'ratio':>8}")
    for m in measurements:
        print(f"{m.name:44}{m.median:12,.0f}{m.lowest:12,.0f}{m.highest:12,.0f}{m.median / first:8.1f}")
    RESULTS.mkdir(exist_ok=True)
    document = {
        "settings": settings,
        "hardware": hardware,
        "images_per_second": [asdict(m) for m in measurements],
    }
    (RESULTS / f"{name}-{target.type}.json").write_text(json.dumps(document, indent=2) + "\n")


def processor() -> str:
    """Return the processor's name and its number of logical cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical cores" if names else platform.processor()
