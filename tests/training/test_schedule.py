"""The learning rate against PyTorch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from cifar_resnet.training.schedule import ScheduleConfig, lr_factor

STEPS = 1000


@pytest.mark.parametrize("warmup", [0, 300])
@pytest.mark.parametrize("shape", ["constant", "cosine"])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_the_rate_equals_pytorchs_schedulers(shape: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler: lr_scheduler.LRScheduler = lr_scheduler.ConstantLR(optimizer, 1.0)
    if shape == "cosine":
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup)
    if warmup:
        rising = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rising, scheduler], [warmup])
    config = ScheduleConfig.model_validate({"shape": shape, "warmup": warmup / STEPS})
    for step in range(STEPS):
        expected = optimizer.param_groups[0]["lr"]
        assert lr_factor(config, step, STEPS) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        optimizer.step()
        scheduler.step()
