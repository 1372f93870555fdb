"""The moving average: its ramp, of weights and of statistics."""

import copy

import pytest
import torch
from torch import nn

from cifar_resnet.training.ema import update_ema


@pytest.mark.parametrize(("step", "decay"), [(0, 1 / 10), (8, 1 / 2), (10**9, 0.99)])
def test_the_start_is_forgotten_soon(step: int, decay: float) -> None:
    old, new = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    for seed, model in enumerate((old, new)):
        draws = torch.Generator().manual_seed(seed)
        for tensor in model.state_dict().values():
            tensor.random_(1, 9, generator=draws)
    average = copy.deepcopy(old)
    update_ema(average, new, 0.99, step)
    before, after = old.state_dict(), new.state_dict()
    for name, tensor in average.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, decay * before[name] + (1 - decay) * after[name])
