"""The learning rate as a pure function of the step: a resumed run needs to know no more than where it is."""

import math
from typing import Literal

from pydantic import Field

from cifar_resnet.params import Config


class ScheduleConfig(Config):
    """`warmup`: the share of all steps in which the rate rises linearly from 0; then it falls by `shape`.

    `constant` does not fall, `cosine` falls to 0 (Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983);
    after a warm-up it is also called one-cycle (Smith and Topin 2017, https://arxiv.org/abs/1708.07120).
    A new shape takes a name here, a case in `lr_factor` and a value in params.yaml (docs/adapt.md).
    """

    shape: Literal["constant", "cosine"]
    warmup: float = Field(ge=0, lt=1)


def lr_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return what the learning rate is multiplied by in step `step` (from 0) of `steps`.

    The first step of a warm-up of n steps has 1/n, its last 1; a cosine would reach 0 in step `steps`.
    """
    rising = round(config.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    match config.shape:
        case "constant":
            return 1.0
        case "cosine":
            return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
