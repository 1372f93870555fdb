"""AdamW against the paper's algorithm in NumPy and against PyTorch's plain loop."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNetConfig
from cifar_resnet.training.optimizer import OptimizerConfig, build_optimizer

STRONG = OptimizerConfig(lr=0.02, betas=(0.8, 0.95), weight_decay=0.5, decay_all=True)
STEPS = 8


class Parameters(nn.Module):
    """Some tensors to optimize: a weight, a bias and a scalar."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        shapes = [(7, 5, 3, 3), (40,), ()]
        self.tensors = nn.ParameterList(
            torch.randn(shape, dtype=torch.float64, generator=random).to(dtype) for shape in shapes
        )


def gradients(step: int) -> list[Tensor]:
    """Small, large and zero ones."""
    random = torch.Generator().manual_seed(step)
    shapes = [parameter.shape for parameter in Parameters(torch.float64).parameters()]
    scale = 10.0 ** (step % 4 - 2) if step else 0.0
    return [scale * torch.randn(shape, dtype=torch.float64, generator=random) for shape in shapes]


def trajectory(optimizer: torch.optim.Optimizer, parameters: Parameters) -> list[list[Tensor]]:
    """The parameters after each step."""
    states = []
    for step in range(STEPS):
        for parameter, gradient in zip(parameters.parameters(), gradients(step), strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
        states.append([parameter.detach().clone() for parameter in parameters.parameters()])
    return states


def adamw_algorithm_2(config: OptimizerConfig) -> list[list[NDArray[Any]]]:
    """Loshchilov and Hutter 2019, algorithm 2, as PyTorch reads it: the decay is multiplied by lr too."""
    beta1, beta2 = config.betas
    theta = [parameter.detach().numpy().copy() for parameter in Parameters(torch.float64).parameters()]
    m = [np.zeros_like(x) for x in theta]
    v = [np.zeros_like(x) for x in theta]
    states = []
    for t in range(1, STEPS + 1):
        for i, gradient in enumerate(gradients(t - 1)):
            g = gradient.numpy()
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat = m[i] / (1 - beta1**t)
            v_hat = v[i] / (1 - beta2**t)
            decay = config.lr * config.weight_decay * theta[i]
            theta[i] = theta[i] - config.lr * m_hat / (np.sqrt(v_hat) + 1e-8) - decay
        states.append(list(theta))
    return states


def test_steps_equal_the_papers_algorithm() -> None:
    parameters = Parameters(torch.float64)
    ours = trajectory(build_optimizer(parameters, STRONG), parameters)
    for mine, expected in zip(ours, adamw_algorithm_2(STRONG), strict=True):
        for tensor, array in zip(mine, expected, strict=True):
            np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-12, atol=1e-14)


def test_steps_equal_pytorchs_plain_loop() -> None:
    parameters, plain = Parameters(torch.float32), Parameters(torch.float32)
    settings: dict[str, Any] = {"lr": STRONG.lr, "betas": STRONG.betas, "weight_decay": STRONG.weight_decay}
    reference = torch.optim.AdamW(plain.parameters(), **settings, foreach=False, fused=False)
    optimizer = build_optimizer(parameters, STRONG)
    assert optimizer.param_groups[0]["fused"]
    ours = trajectory(optimizer, parameters)
    for mine, expected in zip(ours, trajectory(reference, plain), strict=True):
        torch.testing.assert_close(mine, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("decay_all", [True, False])
def test_batch_norms_and_biases_can_be_spared_the_decay(decay_all: bool) -> None:
    model = build_model(ResNetConfig(width=4, blocks=(1, 1, 1, 1)), 10, torch.Generator().manual_seed(0))
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizer = build_optimizer(model, STRONG.model_copy(update={"decay_all": decay_all}))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in model.named_parameters():
        decayed = decay_all or "conv" in name or "downsample.0" in name or name == "fc.weight"
        expected = before[name] * (1 - 0.02 * 0.5) if decayed else before[name]
        torch.testing.assert_close(tensor.detach(), expected, rtol=1e-6, atol=0, msg=name)
