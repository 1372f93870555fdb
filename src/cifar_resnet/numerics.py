"""What decides the bits of a computation: device, dtype, determinism, threads, whether code is compiled."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from cifar_resnet import files
from cifar_resnet.errors import ParamsError, UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Compile = Literal["auto"] | bool
CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/dev/nvidiactl")  # exists on Linux where an NVIDIA driver is loaded


class Numerics(NamedTuple):
    """How a stage computes. `problem`: why the code is not compiled although it was to be."""

    device: torch.device
    dtype: torch.dtype  # of convolutions and matrix products
    compiled: bool
    problem: str | None


def choose(
    device: Device, precision: Precision, deterministic: bool = True, compiling: Compile = False
) -> Numerics:
    """Return what the settings of a stage come to on this machine.

    Must come before the first CUDA call of the process. Raises UserError for what the machine does not have.
    """
    keep_code()  # first of all: the next call makes PyTorch choose a folder of its own
    set_deterministic(deterministic)
    target = find_device(device)
    compiled, problem = will_compile(compiling, target)
    return Numerics(target, autocast_dtype(precision, target), compiled, problem)


def set_deterministic(deterministic: bool) -> None:
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


def find_device(name: Device) -> torch.device:
    """Return the device called `name`; `auto` is the first of CUDA, MPS, CPU that is present.

    Of several GPUs: the first, or the one that belongs to this process of several (LOCAL_RANK). On CUDA
    float32 means float32 from here on, not TF32, in which cuDNN would multiply by default.
    Raises UserError when the device is absent, or when PyTorch cannot use a GPU that is present.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in ("auto", "cuda") and not present["cuda"]:
        _check_driver()
    if name == "auto":
        name = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present[name]:
        allowed = ", ".join(["auto", *(device for device in present if present[device])])
        raise ParamsError(
            f"device {name} is not available to PyTorch {torch.__version__} here; use one of: {allowed}"
        )
    if name != "cuda":
        return torch.device(name)
    # Not `fp32_precision` of conv alone: torch.export refuses settings that differ between cuDNN's parts.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    target = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    try:
        torch.cuda.set_device(target)  # for code that does not say which
        torch.ones(1, device=target).neg()  # a GPU that is busy, broken or unknown to this PyTorch fails here
    except RuntimeError as error:
        raise UserError(
            f"PyTorch cannot compute on {target}: {_first_line(error)}; or set device to cpu"
        ) from error
    return target


def _check_driver() -> None:
    """Raise UserError with PyTorch's own reason when it finds no GPU although an NVIDIA driver is loaded."""
    if torch.version.cuda and NVIDIA.exists() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        try:
            torch.cuda.init()
        except RuntimeError as error:
            problem = f"this machine has an NVIDIA GPU that PyTorch cannot use: {_first_line(error)}"
            raise UserError(f"{problem}; or set device to cpu") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def share(name: Device, processes: int) -> torch.device:
    """Prepare the environment of `processes` child processes: each gets a GPU or its share of the cores.

    Returns the kind of device of each. Raises ParamsError when there are fewer GPUs.
    """
    device = find_device(name)
    if device.type == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    elif processes > (present := torch.cuda.device_count()):
        raise ParamsError(f"train.processes {processes} needs as many GPUs, and PyTorch sees {present} here")
    return device


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that convolutions and matrix products compute in on `device`.

    `auto` is bfloat16 where the hardware multiplies it faster than float32: CUDA from Ampere on, CPUs with
    AMX, AMD's with AVX512-BF16. On older CUDA it is float16, which Volta and Turing multiply.
    Raises ParamsError for bfloat16 where CUDA would only emulate it.
    """
    if device.type == "cuda" and precision in ("auto", "bfloat16"):
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        if precision == "auto":
            return torch.float16 if capability >= (7, 0) else torch.float32
        raise ParamsError(
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
    of the original recipe took 1.5 times as long in bfloat16 (docs/performance.md).
    """
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return amx or (avx512 and not any("Intel" in core.get("vendor_id", "") for core in cpuinfo()))


def cpuinfo() -> list[dict[str, str]]:
    """Return what Linux says of each logical core, by field; on other systems nothing."""
    blocks = CPUINFO.read_text().strip().split("\n\n") if CPUINFO.exists() else []
    pairs = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{name.strip(): value.strip() for name, _, value in core} for core in pairs]


def keep_code() -> None:
    """Let torch.compile keep its code with our other caches, unless a folder for it is set."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.cache() / "compiled"))


def will_compile(choice: Compile, device: torch.device) -> tuple[bool, str | None]:
    """Return whether `torch.compile` makes the network's code, and why not if it was to do so.

    `auto` compiles on CUDA and on CPUs, if that works: it takes a C++ compiler, on a GPU Triton too. Compiled
    and eager code round differently. Raises ParamsError when compiling is a must and does not work.
    """
    if not (choice is True or (choice == "auto" and device.type != "mps")):
        return False, None
    keep_code()
    try:
        torch.compile(torch.neg)(torch.ones(8, device=device))
    except RuntimeError as error:
        problem = _first_line(error)
        if choice is True:
            raise ParamsError(
                f"train.compile: torch.compile does not work here ({problem}); set it to auto or false"
            ) from None
        return False, problem
    return True, None
