"""The moving average: its ramp, of weights and of statistics."""

import copy

import pytest
import torch

from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig
from cifar_resnet.training.average import update_average

LATE = 10**9  # so many steps that the decay has its full value


def networks(count: int) -> list[ResNet]:
    """Networks with weights and statistics of their own."""
    models = []
    for seed in range(count):
        draws = torch.Generator().manual_seed(seed)
        model = build_model(ResNetConfig(width=4, blocks=(1, 1, 1, 1)), 10, draws).train()
        assert isinstance(model, ResNet)
        model(torch.randn(8, 3, 32, 32, generator=draws))
        models.append(model)
    return models


@pytest.mark.parametrize(("step", "decay"), [(0, 1 / 10), (8, 1 / 2), (LATE, 0.99)])
def test_the_start_is_forgotten_soon(step: int, decay: float) -> None:
    old, new = networks(2)
    average = copy.deepcopy(old)
    update_average(average, new, 0.99, step)
    before, after = old.state_dict(), new.state_dict()
    for name, tensor in average.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, decay * before[name] + (1 - decay) * after[name])
