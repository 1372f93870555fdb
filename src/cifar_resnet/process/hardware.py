"""What the train stage runs on: chosen, said in a line before anything else, and noted for its log."""

import os
from typing import Any, NamedTuple

import torch

from cifar_resnet.network import device
from cifar_resnet.process import compilation, gpus, machine, memory
from cifar_resnet.training.config import TrainConfig


class Hardware(NamedTuple):
    """A device, the type that it multiplies in, and whether `torch.compile` makes its code."""

    target: torch.device
    dtype: torch.dtype
    compiled: bool

    def facts(self) -> dict[str, Any]:
        """Return what the log and results/*.json say of the hardware, the versions and the code."""
        return {
            **machine.describe(self.target),
            "precision": str(self.dtype),
            "compiled": self.compiled,
            "malloc": os.environ.get(memory.TUNABLES),
            **machine.code(),
        }


def prepare(config: TrainConfig) -> Hardware:
    """Take what `config` asks for and say what that is. Raises UserError when it is not to be had."""
    compilation.keep_code()
    device.make_deterministic(config.deterministic)
    target = gpus.take(config.device)
    device.check_gradients(target)
    dtype = device.autocast_dtype(config.precision, target)
    problem = compilation.find_problem(config.compile, target)
    compiled = compilation.is_wanted(config.compile, target) and problem is None
    where, precision = device.describe(target), str(dtype).removeprefix("torch.")
    if config.processes > 1:
        where = f"{config.processes} x {where}"
    print(f"training on {where} in {precision}{', compiled' if compiled else ''}")
    compilation.announce(compiled, problem)
    return Hardware(target, dtype, compiled)
