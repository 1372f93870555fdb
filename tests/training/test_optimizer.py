"""AdamW against the paper's algorithm in NumPy."""

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
SHAPES = [(7, 5, 3, 3), (40,), ()]  # a weight, a bias and a scalar


def draw(seed: int, scale: float = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=random) for shape in SHAPES]


GRADIENTS = [draw(step, 10.0 ** (step % 4 - 2) if step else 0) for step in range(8)]  # zero, small and large


def adamw_algorithm_2(config: OptimizerConfig) -> list[list[NDArray[Any]]]:
    """Loshchilov and Hutter 2019, algorithm 2, as PyTorch reads it: the decay is multiplied by lr too.

    Returns the parameters after each step.
    """
    beta1, beta2 = config.betas
    theta = [tensor.numpy() for tensor in draw(0)]
    m = [np.zeros_like(x) for x in theta]
    v = [np.zeros_like(x) for x in theta]
    states = []
    for t, gradients in enumerate(GRADIENTS, start=1):
        for i, gradient in enumerate(gradients):
            g = gradient.numpy()
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat = m[i] / (1 - beta1**t)
            v_hat = v[i] / (1 - beta2**t)
            decay = config.lr * config.weight_decay * theta[i]
            theta[i] = theta[i] - config.lr * m_hat / (np.sqrt(v_hat) + 1e-8) - decay
        states.append(list(theta))
    return states


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_steps_equal_the_papers_algorithm(dtype: torch.dtype, tolerance: float) -> None:
    model = nn.ParameterList(tensor.to(dtype) for tensor in draw(0))
    optimizer = build_optimizer(model, STRONG)
    assert optimizer.param_groups[0]["fused"]
    for gradients, expected in zip(GRADIENTS, adamw_algorithm_2(STRONG), strict=True):
        for parameter, gradient in zip(model, gradients, strict=True):
            parameter.grad = gradient.to(dtype)
        optimizer.step()
        for parameter, array in zip(model, expected, strict=True):
            ours = parameter.detach().double().numpy()
            np.testing.assert_allclose(ours, array, rtol=tolerance, atol=tolerance)


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
