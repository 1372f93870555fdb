"""What can be wrong with an NVIDIA GPU before anything is computed on it."""

import ctypes
import os
from pathlib import Path

import torch

from cifar_resnet.files.params import UserError

CONTROL = Path("/dev/nvidiactl")  # where it is, there is an NVIDIA GPU; Linux alone
DRIVERS = "https://www.nvidia.com/drivers"
BUILDS = "https://pytorch.org/get-started/previous-versions"


def driver_version() -> int | None:
    """Return the newest CUDA that the driver works with, 12020 for 12.2, or None where none can be loaded."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value


def check_driver() -> None:
    """Raise UserError when there is a GPU that PyTorch, made for CUDA, cannot use; when it finds none.

    A driver works with every later minor version of its CUDA
    (https://docs.nvidia.com/deploy/cuda-compatibility).
    """
    made_for = torch.version.cuda
    if made_for is None or not CONTROL.exists():
        return
    version, needed = driver_version(), int(made_for.split(".")[0])
    if version is None:
        problem = f"no driver that PyTorch can load (libcuda.so.1); install one: {DRIVERS}"
    elif version // 1000 < needed:
        problem = (
            f"a driver for CUDA {version // 1000}.{version % 1000 // 10}, and PyTorch {torch.__version__}"
            f" needs one for CUDA {needed}; install a newer driver ({DRIVERS}) or a PyTorch for an older CUDA"
            f" ({BUILDS})"
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        problem = "a driver with which PyTorch finds no GPU; `nvidia-smi` says what is wrong"
    else:
        return  # they are hidden from this process, which is the user's choice
    raise UserError(f"this machine has an NVIDIA GPU and {problem}; or set device to cpu")


def check_code(target: torch.device) -> None:
    """Raise UserError when PyTorch has no code for this GPU, which is too old for it or too new.

    Code for 8.0 runs on all of 8.x; PTX ("compute_80") is compiled for any later GPU
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide, compute capability).
    """
    if torch.version.hip:
        return
    major, minor = torch.cuda.get_device_capability(target)
    for architecture in torch.cuda.get_arch_list():
        kind, _, number = architecture.partition("_")
        first, second = divmod(int(number.rstrip("af")), 10)
        if (kind == "sm" and first == major and second <= minor) or (
            kind == "compute" and (first, second) <= (major, minor)
        ):
            return
    name, known = torch.cuda.get_device_name(target), ", ".join(torch.cuda.get_arch_list())
    raise UserError(
        f"PyTorch {torch.__version__} has no code for the {name} (compute capability {major}.{minor}),"
        f" but for {known}; install a build that has it ({BUILDS}) or set device to cpu"
    )
