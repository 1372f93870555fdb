"""CutMix and mixup against plain loops over images, and against torchvision's CutMix."""

import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms import v2

from cifar_resnet.randomness import generator
from cifar_resnet.training.mixing import MixingConfig, mix, mixed_cross_entropy, sample_mixing

COUNT = 20_000
BOTH = MixingConfig(cutmix=0.5, mixup=0.3, plain_epochs=0)


def in_circle(values: Tensor) -> Tensor:
    """The first one's neighbour is the last one."""
    return torch.cat([values[-1:], values])


def test_every_image_is_mixed_as_its_draw_says() -> None:
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    mixing = sample_mixing(BOTH, 64, 32, False, generator(0, "mixing"))
    mixed = mix(in_circle(images), mixing)
    for i in range(64):
        top, bottom, left, right = mixing.box[i].tolist()
        expected = mixing.blend[i] * images[i] + (1 - mixing.blend[i]) * images[i - 1]
        expected[:, top:bottom, left:right] = images[i - 1, :, top:bottom, left:right]
        torch.testing.assert_close(mixed[i], expected, rtol=1e-6, atol=0)
    none = sample_mixing(BOTH, 64, 32, True, generator(0, "mixing"))
    assert torch.equal(mix(in_circle(images), none), images), "a plain epoch keeps the bits"
    assert torch.equal(none.lam, torch.ones(64))


def test_the_label_share_is_the_share_of_the_pixels() -> None:
    own = torch.tensor([1.0, 0.0]).repeat(500).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    mixing = sample_mixing(BOTH, 1000, 32, False, generator(1, "mixing"))
    mixed = mix(in_circle(own), mixing)[::2]  # neighbours are all zero
    torch.testing.assert_close(mixed.mean((1, 2, 3)), mixing.lam[::2], rtol=1e-5, atol=1e-6)


def test_the_loss_equals_that_of_soft_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 10, generator=draws), torch.randint(10, (40,), generator=draws)
    share = torch.rand(40, generator=draws)
    for smoothing in (0.0, 0.1):
        ours = mixed_cross_entropy(logits, in_circle(labels), share, smoothing)
        soft = share[:, None] * one_hot(labels, 10) + (1 - share[:, None]) * one_hot(labels.roll(1), 10)
        torch.testing.assert_close(ours, cross_entropy(logits, soft, label_smoothing=smoothing))


def test_each_kind_has_its_probability_mixup_uniform_shares_and_cutmix_those_of_torchvision() -> None:
    mixing = sample_mixing(BOTH, COUNT, 32, False, generator(0, "mixing"))
    mixup, boxes = mixing.blend < 1, mixing.box[:, 1] > mixing.box[:, 0]
    assert not (mixup & boxes).any()
    assert stats.binomtest(int(mixup.sum()), COUNT, 0.3).pvalue > 1e-3
    assert stats.kstest(mixing.lam[mixup].numpy(), stats.uniform.cdf).pvalue > 1e-3
    # A box of less than two pixels' side is empty: its share of the image is below (2 / 32) ** 2.
    assert stats.binomtest(int(boxes.sum()), COUNT, 0.5 * (1 - (2 / 32) ** 2)).pvalue > 1e-3
    cutmix, image = v2.CutMix(num_classes=2), torch.zeros(1, 1, 32, 32)  # draws one box a batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = torch.tensor([cutmix.make_params([image])["lam_adjusted"] for _ in range(4000)])
    ours = mixing.lam[boxes]
    assert stats.ks_2samp(ours.numpy(), theirs[theirs < 1].numpy()).pvalue > 1e-3
