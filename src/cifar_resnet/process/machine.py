"""What a run is carried out on: facts for logs and reports, which decide nothing."""

import platform
from pathlib import Path
from typing import Any

import torch

from cifar_resnet.network import device


def describe(target: torch.device) -> dict[str, Any]:
    """Return the hardware and the versions of a run on `target`."""
    return device.fingerprint(target) | {"processor": processor(), "python": platform.python_version()}


def processor() -> str:
    """Return the processor's name and its number of logical cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical cores" if names else platform.processor()


def line(hardware: dict[str, Any]) -> str:
    """Return what `describe` found in a line."""
    processor, device_name = hardware["processor"], str(hardware["device"])
    on_cpu = device_name.startswith("cpu")
    where = f"{processor}, {hardware['instructions']}" if on_cpu else f"{device_name}, {processor}"
    return f"{where}, PyTorch {hardware['torch']}, Python {hardware['python']}"
