"""The network against torchvision's resnet50 with the same stem, on the same weights."""

import math
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar_resnet.errors import UserError
from cifar_resnet.network import model as networks
from cifar_resnet.network.base import Network
from cifar_resnet.network.model import build_model, restore_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig

RESNET50 = ResNetConfig(width=64, blocks=(3, 4, 6, 3))
NARROW = ResNetConfig(width=4, blocks=(1, 1, 1, 1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvision_resnet50() -> nn.Module:
    network: nn.Module = torchvision.models.resnet50(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.fixture(scope="module")
def built() -> ResNet:
    """Not to be changed by a test."""
    network = build_model(RESNET50, 10, seeded(0))
    assert isinstance(network, ResNet)
    return network


@pytest.fixture
def pair(built: ResNet) -> tuple[ResNet, nn.Module]:
    """Our network and torchvision's in float64, equal in every weight and batch norm statistic."""
    random = seeded(1)
    weights = {name: tensor.double() for name, tensor in built.state_dict().items()}
    for name, tensor in weights.items():
        if "bn" in name or "downsample.1" in name:  # as after training, not the initial ones and zeros
            shift = 1 if name.endswith(("weight", "running_var")) else 0
            tensor.copy_(shift + 0.3 * (torch.rand(tensor.shape, generator=random) - 0.5))
    ours, theirs = ResNet(RESNET50, 10).double(), torchvision_resnet50().double()
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return ours.to(memory_format=torch.channels_last), theirs


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for the order of summation."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11 * max(1.0, theirs.abs().max().item()))


def test_logits_and_a_training_step_equal_torchvision(pair: tuple[ResNet, nn.Module]) -> None:
    """Logits in both modes, the gradient of every parameter and every running statistic."""
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=seeded(2))
    ours, theirs = (network.eval()(images) for network in pair)
    assert_close(ours, theirs)
    assert ours.std() > 0.01
    logits = [network.train()(images) for network in pair]
    assert_close(*logits)
    found = []
    for network, output in zip(pair, logits, strict=True):
        cross_entropy(output, torch.tensor([1, 0, 9, 4])).backward()
        gradients = {f"{name}.grad": p.grad for name, p in network.named_parameters() if p.grad is not None}
        assert all(gradient.abs().max() > 0 for gradient in gradients.values())
        found.append(gradients | dict(network.named_buffers()))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len(pair[1].state_dict())
    for name, tensor in found[0].items():
        assert_close(tensor, found[1][name])


def test_every_parameter_starts_in_torchvisions_distribution(built: ResNet) -> None:
    """Kolmogorov-Smirnov against the closed form, layers independent; batch norms start as identity."""
    for name, module in built.named_modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
            distribution = stats.norm(0, std)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            distribution = stats.uniform(-bound, 2 * bound)
            assert bound / 2 < module.bias.abs().max() <= bound
        else:
            if isinstance(module, nn.BatchNorm2d):
                for entry, tensor in module.state_dict().items():
                    assert tensor.eq(entry in ("weight", "running_var")).all(), f"{name}.{entry}"
            continue
        sample = module.weight.detach().flatten()[:20_000].numpy()
        assert stats.kstest(sample, distribution.cdf).pvalue > 1e-6, name
    heads = [parameter.detach().flatten()[:1000] for parameter in built.parameters() if parameter.dim() == 4]
    correlation = torch.corrcoef(torch.stack(heads)).fill_diagonal_(0)
    assert correlation.abs().max() * math.sqrt(1000) < 5


def test_the_generator_alone_decides_the_initial_weights() -> None:
    before = torch.get_rng_state()
    first = build_model(NARROW, 10, seeded(3)).state_dict()
    restore_model(NARROW, 10, first)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = (build_model(NARROW, 10, seeded(seed)).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].dim() in (2, 4) or name == "fc.bias"]
    assert len(drawn) == 1 + 4 * 4 + 2
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_a_restored_network_gives_the_same_logits_and_is_laid_out_channels_last() -> None:
    network = build_model(NARROW, 10, seeded(0))
    images = torch.randn(8, 3, 32, 32, generator=seeded(1))
    network.train()(images)  # moves the running statistics
    restored = restore_model(NARROW, 10, network.state_dict())
    with torch.inference_mode():
        assert torch.equal(restored.eval()(images), network.eval()(images))
    for parameter in [*network.parameters(), *restored.parameters()]:
        assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_with_zero_gamma_each_block_starts_as_its_shortcut() -> None:
    config = ResNetConfig(width=4, blocks=(2, 2, 2, 2))
    plain, model = (build_model(config, 10, seeded(0), zero).eval() for zero in (False, True))
    assert isinstance(model, ResNet)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(model.layer1[1](x), x)  # no projection; x is not negative
    before = plain.state_dict()
    differing = [name for name, p in model.state_dict().items() if not torch.equal(p, before[name])]
    assert differing == [f"layer{i}.{j}.bn3.weight" for i in range(1, 5) for j in range(2)]


class Plain(Network):
    """A network without shortcuts, and with a layer of choice."""

    name = description = "Plain"
    layer: nn.Module = nn.Conv2d(3, 4, 3)

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__(config, classes)
        self.inner = self.layer


def test_what_build_model_cannot_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.NETWORKS, "resnet", Plain)
    network = build_model(NARROW, 10, seeded(0))
    assert network.state_dict()["inner.bias"].eq(0).all()
    with pytest.raises(UserError, match="zero_gamma: Plain has no blocks with a shortcut"):
        build_model(NARROW, 10, seeded(0), zero_gamma=True)
    monkeypatch.setattr(Plain, "layer", nn.LayerNorm(4))
    with pytest.raises(UserError, match="does not know how a LayerNorm starts"):
        build_model(NARROW, 10, seeded(0))
