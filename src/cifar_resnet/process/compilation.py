"""Whether `torch.compile` makes the network's code, and where that code is kept for the next run."""

import os

import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network import device


def keep_code() -> None:
    """Let compiled code be kept with our other caches; before anything asks PyTorch where it is."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.CACHE / "compiled"))


def is_wanted(choice: device.Compile, target: torch.device) -> bool:
    """Return whether to compile for `target` if that works: `auto` does on CUDA and on CPUs."""
    return choice is True or (choice == "auto" and target.type != "mps")


def find_problem(choice: device.Compile, target: torch.device) -> str | None:
    """Return why compiling does not work, if it is wanted and does not. Raises UserError when it must."""
    problem = device.compile_problem(target) if is_wanted(choice, target) else None
    if problem and choice is True:
        raise UserError(
            f"train.compile: torch.compile does not work here ({problem}); set it to auto or false"
        )
    return problem


def announce(compiled: bool, problem: str | None) -> None:
    """Say in one line what compiling means for the first step, or why there is none."""
    if problem:
        print(f"training without torch.compile, which does not work here: {problem}")
    if compiled:
        kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        print(f"the first step compiles the network: a minute or two, the next time seconds (kept in {kept})")
