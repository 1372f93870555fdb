"""AdamW: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101."""

from typing import Annotated, Any

from pydantic import Field
from torch import nn
from torch.optim import AdamW

from cifar_resnet.params import Config

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """`lr`: the highest of the run; `weight_decay`: decoupled, multiplied by the step's rate in each step.

    `decay_all`: batch norms and biases too, not only the weights of convolutions and the linear layer.
    The section `train.optimizer` of params.yaml; `new_state` in state.py passes it on.
    """

    lr: float = Field(gt=0, le=10)
    betas: tuple[Beta, Beta]
    weight_decay: float = Field(ge=0, le=10)
    decay_all: bool


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over all parameters, for `new_state`; fused: one kernel for the whole model."""
    parameters = list(model.parameters())
    decay = [p for p in parameters if config.decay_all or p.ndim >= 2]
    no_decay = [p for p in parameters if not config.decay_all and p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decay, "weight_decay": config.weight_decay}]
    if no_decay:
        groups.append({"params": no_decay, "weight_decay": 0.0})
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
