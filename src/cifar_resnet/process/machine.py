"""Facts of the machine, for log, record and the name of a run's folder; numerics.py chooses the device."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from cifar_resnet.numerics import Numerics, cpuinfo
from cifar_resnet.process import memory

INSTRUCTIONS = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}  # flags that change speed and bits most
CODE = ("src", "stages", "dvc.yaml", "requirements.lock")  # the params of a run are in its record


def announce(chosen: Numerics, processes: int) -> dict[str, Any]:
    """Say where and how training computes; return that for the log and results/*.json."""
    found = facts(chosen.device) | {
        "precision": str(chosen.dtype),
        "compiled": chosen.compiled,
        "malloc": memory.kept,
        **code(),
    }
    where, precision = device_name(chosen.device), str(chosen.dtype).removeprefix("torch.")
    several = f"{processes} x " if processes > 1 else ""
    print(f"training on {several}{where} in {precision}{', compiled' if chosen.compiled else ''}")
    if chosen.problem:
        print(f"training without torch.compile, which does not work here: {chosen.problem}")
    if chosen.compiled:
        cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        print(f"the first step compiles the network: a minute or two, the next time seconds (in {cache})")
    return found


def device_name(device: torch.device) -> str:
    """Return what a person calls `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = processor().partition(", family")[0]
    threads = torch.get_num_threads()
    cores = f"{threads} CPU core{'s' if threads > 1 else ''} ({name})"
    return f"the GPU of {name}" if device.type == "mps" else cores


def facts(device: torch.device) -> dict[str, Any]:
    """Return the hardware and the versions of a run on `device`."""
    cores = len(cpuinfo())
    return fingerprint(device) | {
        "processor": processor() + (f", {cores} logical cores" if cores else ""),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torchvision", "numpy")},
    }


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Return all of the hardware and the versions that decides the bits of a computation on `device`.

    On a CPU that is the processor too: processors that PyTorch calls "AVX512" round differently with AMX.
    """
    on_gpu = device.type == "cuda"
    found = {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
    }
    return found if on_gpu else found | {"processor": processor(), "flags": flags()}


def processor() -> str:
    """Return the processor's name, with family and model where Linux knows them."""
    first = next(iter(cpuinfo()), {})
    if "cpu family" not in first:
        return first.get("model name") or platform.processor() or platform.machine()
    return f"{first['model name']}, family {first['cpu family']} model {first['model']}"


def flags() -> list[str]:
    """Return the vector and matrix instructions of an x86 processor, as Linux calls them; else nothing."""
    words = next(iter(cpuinfo()), {}).get("flags", "").split()
    return sorted(word for word in words if word.startswith(("avx", "amx")))


def code() -> dict[str, Any]:
    """Return the commit, and whether the code here differs from it; None without git or a repository."""
    questions = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *CODE])
    commands = [["git", "--no-optional-locks", *words] for words in questions]
    try:
        runs = [subprocess.run(words, capture_output=True, text=True, check=True) for words in commands]
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    commit, changed = (run.stdout.strip() for run in runs)
    return {"commit": commit, "dirty": bool(changed)}


def format_facts(hardware: dict[str, Any]) -> str:
    """Return what `facts` found in a line."""
    device = str(hardware["device"])
    special = [name for flag, name in INSTRUCTIONS.items() if flag in hardware.get("flags", [])]
    instructions = ", ".join([str(hardware["instructions"]), *special])
    place = instructions if device.startswith("cpu") else hardware["processor"]
    first = hardware["processor"] if device.startswith("cpu") else device
    return f"{first}, {place}, PyTorch {hardware['torch']}, Python {hardware['python']}"
