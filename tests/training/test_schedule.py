"""The learning rate against PyTorch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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


@pytest.mark.parametrize("warmup", [0, 100, 300])
@pytest.mark.parametrize("shape", ["constant", "cosine"])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_the_rate_equals_pytorchs_schedulers(shape: str, warmup: int) -> None:
    config = ScheduleConfig.model_validate({"shape": shape, "warmup": warmup / STEPS})
    ours = [lr_factor(config, step, STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(reference(shape, warmup), rel=1e-9, abs=1e-9)


def test_without_a_schedule_the_rate_is_untouched() -> None:
    config = ScheduleConfig(shape="constant", warmup=0)
    assert {lr_factor(config, step, 7) for step in range(7)} == {1.0}


@given(
    st.sampled_from(("constant", "cosine")),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 10_000),
    st.data(),
)
def test_the_factor_is_in_range_and_never_zero_inside(
    shape: str, warmup: float, steps: int, data: st.DataObject
) -> None:
    config = ScheduleConfig.model_validate({"shape": shape, "warmup": warmup})
    factor = lr_factor(config, data.draw(st.integers(0, steps - 1)), steps)
    assert math.isfinite(factor)
    assert 0 < factor <= 1
