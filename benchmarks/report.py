"""Timing in turn, a table on the console, and the JSON file that docs/performance.md is made from."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cifar_resnet import numerics
from cifar_resnet.process import machine

RESULTS = Path(__file__).resolve().parent / "results"
Row = dict[str, Any]  # column to text or number; the first column names the row


def timings(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call: once to warm up, untimed, then in turn `repeats` times.

    In turn, so that a machine that slows down for a while slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            synchronize()
            started = time.perf_counter()
            call()
            synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def speeds(candidates: Mapping[str, tuple[int, Callable[[], object]]], repeats: int) -> list[Row]:
    """Return the images per second of each candidate (images per call, call) beside the first's."""
    seconds = timings({name: call for name, (_, call) in candidates.items()}, repeats)
    median = {name: images / statistics.median(seconds[name]) for name, (images, _) in candidates.items()}
    first = next(iter(median.values()))
    return [
        {
            "candidate": name,
            "images/s": median[name],
            "lowest": images / max(seconds[name]),
            "highest": images / min(seconds[name]),
            "ratio": median[name] / first,
        }
        for name, (images, _) in candidates.items()
    ]


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(name: str, settings: str, rows: list[Row]) -> None:
    """Print the rows and write results/NAME-DEVICE.json."""
    kind = numerics.find_device("auto").type
    hardware = machine.facts(numerics.find_device("auto"))
    print(f"\n{name}: {settings}\n{hardware}\n")
    print(pd.DataFrame(rows).map(text).to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    document = {"settings": settings, "hardware": hardware, "rows": rows}
    (RESULTS / f"{name}-{kind}.json").write_text(json.dumps(document, indent=1) + "\n")


def text(value: float | str) -> str:
    """Return a number with three significant digits, and a text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
