"""CutMix and mixup against plain loops over images, and against torchvision's CutMix."""

import math

import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from cifar_resnet.randomness import generator
from cifar_resnet.training.mixing import MixingConfig, draw_mixing, mix, mixed_cross_entropy

COUNT = 20_000
BOTH = MixingConfig(cutmix=0.5, mixup=0.3, plain_epochs=0)


def in_circle(values: Tensor) -> Tensor:
    """The first one's neighbour is the last one."""
    return torch.cat([values[-1:], values])


def test_every_image_is_mixed_as_its_draw_says() -> None:
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    mixing = draw_mixing(BOTH, 64, 32, False, generator(0, "mixing"))
    mixed = mix(in_circle(images), mixing)
    for i in range(64):
        top, bottom, left, right = mixing.box[i].tolist()
        expected = mixing.blend[i] * images[i] + (1 - mixing.blend[i]) * images[i - 1]
        expected[:, top:bottom, left:right] = images[i - 1, :, top:bottom, left:right]
        torch.testing.assert_close(mixed[i], expected, rtol=1e-6, atol=0)


def test_the_label_share_is_the_share_of_the_pixels() -> None:
    own = torch.tensor([1.0, 0.0]).repeat(500).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    mixing = draw_mixing(BOTH, 1000, 32, False, generator(1, "mixing"))
    mixed = mix(in_circle(own), mixing)[::2]  # neighbours are all zero
    torch.testing.assert_close(mixed.mean((1, 2, 3)), mixing.share[::2], rtol=1e-5, atol=1e-6)


def test_a_plain_epoch_keeps_the_bits_of_every_image() -> None:
    images = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    none = draw_mixing(BOTH, 50, 8, True, generator(0, "mixing"))
    assert torch.equal(mix(in_circle(images), none), images)
    assert torch.equal(none.share, torch.ones(50))


def test_the_loss_equals_that_of_soft_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 10, generator=draws), torch.randint(10, (40,), generator=draws)
    share = torch.rand(40, generator=draws)
    for smoothing in (0.0, 0.1):
        ours = mixed_cross_entropy(logits, in_circle(labels), share, smoothing)
        soft = share[:, None] * one_hot(labels, 10) + (1 - share[:, None]) * one_hot(labels.roll(1), 10)
        torch.testing.assert_close(ours, cross_entropy(logits, soft, label_smoothing=smoothing))


def test_each_kind_has_its_probability() -> None:
    mixing = draw_mixing(BOTH, COUNT, 32, False, generator(0, "mixing"))
    mixup = (mixing.blend < 1).sum().item()
    assert stats.binomtest(mixup, COUNT, 0.3).pvalue > 1e-3
    boxes = (mixing.box[:, 1] > mixing.box[:, 0]).sum().item()
    # A box of less than two pixels' side is empty: its share of the image is below (2 / 32) ** 2.
    assert stats.binomtest(boxes, COUNT, 0.5 * (1 - (2 / 32) ** 2)).pvalue > 1e-3
    assert not ((mixing.blend < 1) & (mixing.box[:, 1] > mixing.box[:, 0])).any()


def test_mixup_shares_are_uniform() -> None:
    config = MixingConfig(cutmix=0, mixup=1, plain_epochs=0)
    shares = draw_mixing(config, COUNT, 32, False, generator(0, "mixing")).share
    assert stats.kstest(shares.numpy(), stats.uniform.cdf).pvalue > 1e-3


def test_boxes_are_distributed_as_torchvisions() -> None:
    """torchvision.transforms.v2.CutMix draws one box a batch; its code for the box, from NumPy draws."""
    draws = torch.Generator().manual_seed(5)
    shares = []
    for _ in range(COUNT):
        share = float(torch.rand((), generator=draws))
        row, column = torch.randint(32, (2,), generator=draws).tolist()
        half = int(0.5 * math.sqrt(1 - share) * 32)
        height = min(row + half, 32) - max(row - half, 0)
        width = min(column + half, 32) - max(column - half, 0)
        shares.append(1 - height * width / 32**2)
    config = MixingConfig(cutmix=1, mixup=0, plain_epochs=0)
    ours = draw_mixing(config, COUNT, 32, False, generator(0, "mixing")).share
    assert stats.ks_2samp(ours.numpy(), shares).pvalue > 1e-3
