"""What a run is carried out on: facts for its log, its record and the name of its folder of checkpoints."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import files
from cifar_resnet.network import device

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}  # flags that change speed and bits most
LOCK = Path("requirements.lock")
CODE = ("src", "stages", "params.yaml", "dvc.yaml", str(LOCK))


def describe(target: torch.device) -> dict[str, Any]:
    """Return the hardware and the versions of a run on `target`."""
    cores = len(_cores())
    return fingerprint(target) | {
        "processor": processor() + (f", {cores} logical cores" if cores else ""),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torchvision", "numpy", "dvc")},
    }


def fingerprint(target: torch.device) -> dict[str, Any]:
    """Return all of the hardware and the versions that decides the bits of a computation on `target`.

    On a CPU that is the processor too: processors that PyTorch calls "AVX512" round differently with AMX.
    """
    facts = device.fingerprint(target)
    return facts if target.type == "cuda" else facts | {"processor": processor(), "flags": flags()}


def processor() -> str:
    """Return the processor's name, with family and model where Linux knows them."""
    first = next(iter(_cores()), {})
    if "cpu family" not in first:
        return device.processor()
    return f"{first['model name']}, family {first['cpu family']} model {first['model']}"


def flags() -> list[str]:
    """Return the vector and matrix instructions of an x86 processor, as Linux calls them; else nothing."""
    words = next(iter(_cores()), {}).get("flags", "").split()
    return sorted(word for word in words if word.startswith(("avx", "amx")))


def code() -> dict[str, Any]:
    """Return the commit, whether files that decide a result differ from it, and the digest of the lock."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *CODE)
    return {
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "requirements": files.sha256(LOCK) if LOCK.exists() else None,
    }


def line(hardware: dict[str, Any]) -> str:
    """Return what `describe` found in a line."""
    processor, device_name = hardware["processor"], str(hardware["device"])
    special = [name for flag, name in INSTRUCTIONS.items() if flag in hardware.get("flags", [])]
    instructions = ", ".join([str(hardware["instructions"]), *special])
    on_cpu = device_name.startswith("cpu")
    where = f"{processor}, {instructions}" if on_cpu else f"{device_name}, {processor}"
    return f"{where}, PyTorch {hardware['torch']}, Python {hardware['python']}"


def _cores() -> list[dict[str, str]]:
    """What Linux says of each logical core, by field."""
    blocks = CPUINFO.read_text().strip().split("\n\n") if CPUINFO.exists() else []
    pairs = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{name.strip(): value.strip() for name, _, value in core} for core in pairs]


def _git(*words: str) -> str | None:
    """What git prints; None where there is no git or no repository."""
    try:
        command = ["git", "--no-optional-locks", *words]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        return run.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
