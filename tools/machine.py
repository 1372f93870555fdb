"""What a figure was measured on."""

import platform
from pathlib import Path
from typing import Any

from cifar_resnet import device


def describe() -> dict[str, Any]:
    """Return the hardware and the versions that a run with `device: auto` here uses."""
    return device.fingerprint(device.select_device("auto")) | {
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """Return the processor's name and its number of logical cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical cores" if names else platform.processor()


def line(hardware: dict[str, Any]) -> str:
    """Return what `describe` found in a line."""
    device_name = "" if str(hardware["device"]).startswith("cpu") else f"{hardware['device']}, "
    return f"{device_name}{hardware['processor']}, PyTorch {hardware['torch']}, Python {hardware['python']}"
