"""Where and how the arithmetic is done: device, precision, determinism."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto"] | bool


def select_device(name: Device) -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS, CPU that is present.

    Raises ValueError when the device is absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present[name]:
        allowed = ", ".join(["auto", *(device for device in present if present[device])])
        raise ValueError(
            f"device {name} is not available to PyTorch {torch.__version__} here; use one of: {allowed}"
        )
    return torch.device(name)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that convolutions and matrix products compute in on `device`.

    `auto` is bfloat16 where the hardware multiplies it: CUDA from Ampere on, CPUs with AMX or AVX512-BF16.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def compile_problem(device: torch.device) -> str | None:
    """Return why `torch.compile` does not work here: it wants a C++ compiler, on a GPU Triton too."""
    try:
        torch.compile(torch.neg)(torch.ones(8, device=device))
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def make_deterministic(deterministic: bool) -> None:
    """Let PyTorch use only algorithms that repeat bit for bit, and fail where there is none.

    Must come before the first CUDA call of the process: cuBLAS reads its workspace setting once
    (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # It would cost time, and nothing here reads memory it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Return the hardware and versions that decide which bits a computation gives."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


@contextmanager
def naming_memory(section: str, batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a ValueError that says which number to lower."""
    try:
        yield
    except RuntimeError as error:
        # CUDA has a class for it, the CPU's allocator raises a plain RuntimeError
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise ValueError(f"out of memory; lower {section}.batch_size (now {batch_size})") from error
        raise
