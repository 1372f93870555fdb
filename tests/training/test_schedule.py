"""The learning rate against PyTorch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from cifar_resnet.training.schedule import ScheduleConfig, lr_factor

STEPS = 1000


def reference(shape: str, warmup: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    falling: lr_scheduler.LRScheduler
    if shape == "cosine":
        falling = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup)
    else:
        falling = lr_scheduler.ConstantLR(optimizer, 1.0)
    scheduler: lr_scheduler.LRScheduler = falling
    if warmup:
        rising = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 300])
@pytest.mark.parametrize("shape", ["constant", "cosine"])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_the_rate_equals_pytorchs_schedulers(shape: str, warmup: int) -> None:
    config = ScheduleConfig.model_validate({"shape": shape, "warmup": warmup / STEPS})
    ours = [lr_factor(config, step, STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(reference(shape, warmup), rel=1e-9, abs=1e-9)
