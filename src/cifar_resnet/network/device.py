"""Where and how the arithmetic is done: device, precision, determinism."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Compile = Literal["auto"] | bool
OUT_OF_MEMORY = ("DefaultCPUAllocator", "MPS backend out of memory")  # in errors that have no class


def select_device(name: Device) -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS, CPU that is present.

    On CUDA float32 means float32 from here on, not TF32, in which cuDNN would multiply by default.
    Raises UserError when the device is absent, or when PyTorch cannot use a GPU that is there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in ("auto", "cuda") and not present["cuda"]:
        cuda.check_driver()
    if name == "auto":
        name = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present[name]:
        allowed = ", ".join(["auto", *(device for device in present if present[device])])
        raise UserError(
            f"device {name} is not available to PyTorch {torch.__version__} here; use one of: {allowed}"
        )
    if name == "cuda":
        # Not `fp32_precision` of conv alone: torch.export refuses settings that differ between cuDNN's parts.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that convolutions and matrix products compute in on `device`.

    `auto` is bfloat16 where the hardware multiplies it faster than float32: CUDA from Ampere on, CPUs with
    AMX, AMD's with AVX512-BF16. On older CUDA it is float16, which Volta and Turing multiply.
    Raises UserError for bfloat16 where CUDA would only emulate it.
    """
    if device.type == "cuda" and precision in ("auto", "bfloat16"):
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        if precision == "auto":
            return torch.float16 if capability >= (7, 0) else torch.float32
        raise UserError(
            f"precision bfloat16: the {torch.cuda.get_device_name(device)} cannot multiply it; use float16,"
            " float32 or auto"
        )
    if precision == "auto":
        precision = "bfloat16" if device.type == "cpu" and _bfloat16_is_faster() else "float32"
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def _bfloat16_is_faster() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32.

    Intel's does so with AMX alone, which a virtual machine may hide: on an Emerald Rapids without it a step
    of the reference recipe took 1.5 times as long in bfloat16 (docs/performance.md).
    """
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return amx or (avx512 and "Intel" not in processor())


def check_gradients(device: torch.device) -> None:
    """Raise UserError where the network's gradients would be wrong.

    That is on MPS in PyTorch 2.11 to 2.13, batch norm in channels_last:
    https://github.com/pytorch/pytorch/issues/175189, 181411 and 188371 there.
    """
    if device.type == "mps" and "2.11" <= torch.__version__ < "2.14":
        raise UserError(
            f"PyTorch {torch.__version__} computes batch norm's gradients wrongly on MPS; install 2.14 or"
            " later, or set train.device to cpu"
        )


def describe(device: torch.device) -> str:
    """Return what a person calls `device`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    cores = f"{threads} CPU core{'s' if threads > 1 else ''} ({processor()})"
    return f"the GPU of {processor()}" if device.type == "mps" else cores


def processor() -> str:
    """Return the processor's name as Linux knows it, elsewhere its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
    }


@contextmanager
def naming_memory(section: str, batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a UserError that says which number to lower."""
    try:
        yield
    except RuntimeError as error:
        # CUDA has a class for it, the allocators of the CPU and of MPS raise a plain RuntimeError
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise UserError(f"out of memory; lower {section}.batch_size (now {batch_size})") from error
        raise
