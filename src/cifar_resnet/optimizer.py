"""AdamW: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.optim import AdamW

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(BaseModel):
    """`lr`: constant over the run; `weight_decay`: decoupled, multiplied by `lr` in each step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(gt=0, le=10)
    betas: tuple[Beta, Beta]
    weight_decay: float = Field(ge=0, le=10)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over all parameters, in the fused implementation (one kernel for the whole model)."""
    return AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
