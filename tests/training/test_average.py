"""The moving average against PyTorch's AveragedModel."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


def test_it_equals_pytorchs_averaged_model() -> None:
    models = networks(4)
    average = copy.deepcopy(models[0])
    reference = AveragedModel(models[0], multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(models[0])  # the first call copies
    for model in models[1:]:
        update_average(average, model, 0.9, LATE)
        reference.update_parameters(model)
    for name, tensor in average.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, reference.module.state_dict()[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 1 / 10), (1, 2 / 11), (8, 1 / 2), (98, 11 / 12), (LATE, 0.99)]
)
def test_the_start_is_forgotten_soon(step: int, decay: float) -> None:
    old, new = networks(2)
    average = copy.deepcopy(old)
    update_average(average, new, 0.99, step)
    expected = decay * old.fc.weight + (1 - decay) * new.fc.weight
    torch.testing.assert_close(average.fc.weight, expected)
    variances = [model.state_dict()["bn1.running_var"] for model in (old, new, average)]
    torch.testing.assert_close(variances[2], decay * variances[0] + (1 - decay) * variances[1])
