import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.network.inference import NormalizationConfig, build_normalization, predict
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig

IMAGENET = NormalizationConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CPU = torch.device("cpu")


def random_images(count: int) -> Tensor:
    shape = (count, 3, 32, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Random images, and every value that a pixel can have."""
    every_value = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    return torch.cat([random_images(22), every_value])


@pytest.fixture
def model(images: Tensor) -> ResNet:
    """In training mode, with running statistics of its own."""
    network = build_model(ResNetConfig(width=8, blocks=(1, 1, 1, 1)), 10, torch.Generator().manual_seed(0))
    assert isinstance(network, ResNet)
    for _ in range(3):
        network.train()(images.float() / 100)
    return network


@pytest.mark.parametrize(
    "config",
    [
        IMAGENET,
        NormalizationConfig(mean=(0, 0.5, 1), std=(1, 0.5, 0.25)),
    ],
)
def test_normalization_equals_torchvisions(images: Tensor, config: NormalizationConfig) -> None:
    ours = build_normalization(config, CPU)(images)
    assert ours.dtype == torch.float32
    mean, std = list(config.mean), list(config.std)
    exact = functional.normalize(images.double() / 255, mean, std)
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-6)


def test_normalized_images_are_laid_out_channels_last(images: Tensor) -> None:
    normalization = build_normalization(IMAGENET, CPU)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        assert normalization(given).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(normalization(given), normalization(images))


@pytest.mark.parametrize(("batch_size", "sizes"), [(10, [10, 10, 3]), (50, [23])])
def test_predictions_equal_one_forward_pass_over_all_images(
    images: Tensor, model: ResNet, batch_size: int, sizes: list[int]
) -> None:
    normalization = build_normalization(IMAGENET, CPU)
    batches = list(predict(model, images.split(batch_size), normalization, torch.float32))
    assert [len(batch) for batch in batches] == sizes
    assert all(batch.dtype == torch.float32 for batch in batches)
    assert not model.training
    with torch.no_grad():
        expected = model.eval()(functional.normalize(images / 255, list(IMAGENET.mean), list(IMAGENET.std)))
    torch.testing.assert_close(torch.cat(batches), expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def test_the_caller_trains_on_between_two_batches(images: Tensor, model: ResNet) -> None:
    """Inference mode and autocast are left at each yield."""
    for logits in predict(model, images.split(10), build_normalization(IMAGENET, CPU), torch.bfloat16):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not logits.requires_grad


def test_bfloat16_computes_less_precisely_but_the_same(images: Tensor, model: ResNet) -> None:
    normalization = build_normalization(IMAGENET, CPU)
    full = torch.cat(list(predict(model, images.split(10), normalization, torch.float32)))
    half = torch.cat(list(predict(model, images.split(10), normalization, torch.bfloat16)))
    assert half.dtype == torch.float32
    deviation = (half - full).abs().max() / full.std()
    assert 1e-4 < deviation < 0.2
    assert torch.equal(half, half.bfloat16().float())  # the last product was in bfloat16
