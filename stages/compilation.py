"""Whether `torch.compile` makes the network's code, and where that code is kept for the next run."""

import os

import torch

from cifar_resnet import device
from stages import files


def keep_code() -> None:
    """Let compiled code be kept with our other caches; before anything asks PyTorch where it is."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.CACHE / "compiled"))


def use_compile(choice: device.Compile, target: torch.device) -> bool:
    """Return whether to compile for `target`, and say in one line what that means.

    `auto` compiles on CUDA and on CPUs, where it works. Raises ValueError when it must and does not work.
    """
    if choice is False or (choice == "auto" and target.type == "mps"):
        return False
    problem = device.compile_problem(target)
    if problem and choice is True:
        raise ValueError(
            f"train.compile: torch.compile does not work here ({problem}); set it to auto or false"
        )
    if problem:
        print(f"training without torch.compile, which does not work here: {problem}")
        return False
    kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    print(f"the first step compiles the network: a minute or two, the next time seconds (kept in {kept})")
    return True
