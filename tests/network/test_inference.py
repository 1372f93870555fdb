"""Normalization and prediction against torchvision and one plain forward pass."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.network.inference import NormalizationConfig, build_normalization, predict
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig
from tests.made_up import random_images

IMAGENET = NormalizationConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Random images, and every value that a pixel can have."""
    every_value = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    return torch.cat([random_images(22).images, every_value])


@pytest.fixture
def model(images: Tensor) -> ResNet:
    """In training mode, with running statistics of its own."""
    network = build_model(ResNetConfig(width=8, blocks=(1, 1, 1, 1)), 10, torch.Generator().manual_seed(0))
    assert isinstance(network, ResNet)
    for _ in range(3):
        network.train()(images.float() / 100)
    return network


def test_normalization_equals_torchvisions_and_is_laid_out_channels_last(images: Tensor) -> None:
    normalization = build_normalization(IMAGENET, CPU)
    exact = functional.normalize(images.double() / 255, list(IMAGENET.mean), list(IMAGENET.std))
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        ours = normalization(given)
        assert ours.dtype == torch.float32
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-6)
    assert random_images(2).channels_last().images.stride() == (3 * 32 * 32, 1, 3 * 32, 3)


def test_predictions_equal_one_forward_pass_over_all_images(images: Tensor, model: ResNet) -> None:
    normalization = build_normalization(IMAGENET, CPU)
    batches = list(predict(model, images.split(10), normalization, torch.float32))
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert not model.training
    with torch.no_grad():
        expected = model.eval()(functional.normalize(images / 255, list(IMAGENET.mean), list(IMAGENET.std)))
    torch.testing.assert_close(torch.cat(batches), expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def test_bfloat16_computes_less_precisely_but_the_same(images: Tensor, model: ResNet) -> None:
    normalization, half = build_normalization(IMAGENET, CPU), []
    full = torch.cat(list(predict(model, images.split(10), normalization, torch.float32)))
    for logits in predict(model, images.split(10), normalization, torch.bfloat16):
        half.append(logits)
        assert not torch.is_inference_mode_enabled(), "the caller trains on between two batches"
        assert not torch.is_autocast_enabled("cpu")
    ours = torch.cat(half)
    assert 1e-4 < (ours - full).abs().max() / full.std() < 0.2
    assert ours.dtype == torch.float32
    assert torch.equal(ours, ours.bfloat16().float()), "the last product was in bfloat16"
