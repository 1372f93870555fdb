"""Test images that are nearly in the training data: the same shot, cropped, zoomed, mirrored or recoloured.

People who looked at the nearest neighbours of CIFAR-10's test images found such a training image for 2.5 % of
them (Barz and Denzler 2020, https://arxiv.org/abs/1902.00423). A network may know them by heart.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, normalize
from torchvision.transforms.v2.functional import resize

from cifar_resnet.params import Config

GRID = 6  # by 6 fields of colour: coarse, so that a zoom or shift leaves most of each field in place
CANDIDATES = 20  # training images that are laid over each test image; 97 % of the listed ones are among them
ROUNDS = (8, 10)  # of alignment, at half and at full size; with half as many it finds as much
ZOOM, SHIFT = 1.5, 0.25  # limits of the alignment, the second in image widths
ALIKE = 0.4  # agreement at half size below which full size is not tried; it lost one pair of 890
SIZE = 32  # pixels: all these numbers were chosen on images of this size
NOISE = 2.0  # grey levels; weaker details than this count as noise


class DuplicatesConfig(Config):
    """`threshold`: agreement of details from which two images count as near-duplicates (from ALIKE)."""

    threshold: float = Field(ge=ALIKE, le=1)


class Duplicates(NamedTuple):
    """Pairs of similar images, the most similar first; no test image is in two."""

    test: Tensor  # (K,) int64: which test image
    train: Tensor  # (K,) int64: which training image
    mirrored: Tensor  # (K,) bool: whether it is its mirror image that is similar
    score: Tensor  # (K,) float32: agreement of their details, 1 for equal images


def _small(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to (N, 3, 32, 32) uint8; images of that size are given back."""
    if images.shape[-1] == SIZE:
        return images
    return torch.cat([resize(part, [SIZE, SIZE], antialias=True) for part in images.split(1000)])


def _grey(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to (N, S, S) float32 grey levels from 0 to 255."""
    return torch.cat([part.float().mean(1) for part in images.split(1000)])


def _layout(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to (N, 108) float32 of mean 0 and length 1: their colours, field by field."""
    fields = torch.cat([adaptive_avg_pool2d(part.float(), GRID).flatten(1) for part in images.split(1000)])
    return normalize(fields - fields.mean(1, keepdim=True), dim=1, eps=1e-6)


def _standard(grey: Tensor, inside: Tensor) -> Tensor:
    """(N, S, S) grey levels to mean 0 and length 1 over the pixels `inside` (N, S, S), and 0 elsewhere."""
    count = inside.sum((1, 2), keepdim=True).clamp(min=1)
    centred = (grey - (grey * inside).sum((1, 2), keepdim=True) / count) * inside
    return centred / (centred.square().sum((1, 2), keepdim=True) + 1).sqrt()


def _centres(size: int) -> Tensor:
    """(S,) float32: the centres of the pixels along a side, in image widths from the middle."""
    return (torch.arange(size) + 0.5) / size - 0.5


def _pull(grey: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """(N, S, S) grey levels read at `place`, bilinearly, and (N, S, S) whether each was inside, as 0 or 1.

    `place`: (N, 2, 2) float32, for x and for y a zoom z and a shift s: the pixel at c reads from z c + s.
    """
    size = grey.shape[-1]
    at = (place[:, :, :1] * _centres(size) + place[:, :, 1:] + 0.5) * size - 0.5
    weights = (1 - (at[..., None] - torch.arange(size)).abs()).clamp(min=0)  # (N, 2, S, S)
    within = (weights.sum(3) > 0.999).float()  # all weights are there, but for rounding
    pulled = weights[:, 1] @ grey @ weights[:, 0].transpose(1, 2)
    return pulled, within[:, 1, :, None] * within[:, 0, None, :]


def _solver(test: Tensor) -> Tensor:
    """(N, S, S) grey levels to (N, 4, S * S), which turns a difference of images into a change of place."""
    size, centres = test.shape[-1], _centres(test.shape[-1])
    down, right = torch.gradient(_standard(test, torch.ones_like(test)), dim=(1, 2))
    slopes = torch.stack([right * centres, right, down * centres[:, None], down], 1).flatten(2) * size
    # Squared slopes sum to 10 to 1000: adding 1 slows them little and holds images without any in place.
    solver: Tensor = torch.linalg.solve(slopes @ slopes.transpose(1, 2) + torch.eye(4), slopes)
    return solver


def _aligned(test: Tensor, own: Tensor, train: Tensor, place: Tensor, rounds: int) -> Tensor:
    """Return `place` (P, 2, 2) improved, by which training images fall on their test images, test[own].

    `test`: (N, S, S), `train`: (P, S, S) grey levels; `own`: (P,) int64. Inverse compositional alignment
    (Baker and Matthews 2004, https://doi.org/10.1023/B:VISI.0000011205.11775.fd), on standardized images:
    the slopes are those of the test image, so one solver does for all its candidates and all rounds.
    """
    solver, test = _solver(test)[own], test[own]
    for _ in range(rounds):
        pulled, inside = _pull(train, place)
        difference = (_standard(pulled, inside) - _standard(test, inside)).flatten(1)
        zoom, shift = (solver @ difference[:, :, None]).view(-1, 2, 2).unbind(2)
        zoom = place[:, :, 0] / (1 + zoom).clamp(min=0.5)
        shift = place[:, :, 1] - zoom * shift
        place = torch.stack([zoom.clamp(1 / ZOOM, ZOOM), shift.clamp(-SHIFT, SHIFT)], 2)
    return place


def _agreement(test: Tensor, train: Tensor, place: Tensor) -> Tensor:
    """(P, S, S) grey levels, pair by pair, to (P,) from -1 to 1: the mean correlation of 3x3 neighbourhoods.

    The structure term of SSIM (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861). Each place counts
    alike, whatever its contrast: an outline or a frame alone is no copy. Flat places count as 0.
    """
    pulled, inside = _pull(train, place)
    stacked = torch.stack([test, pulled, test * test, pulled * pulled, test * pulled, inside], 1)
    a, b, aa, bb, ab, whole = avg_pool2d(stacked, 3, 1).unbind(1)
    variances = ((aa - a * a).clamp(min=0) + NOISE**2) * ((bb - b * b).clamp(min=0) + NOISE**2)
    whole = (whole > 0.999).float()
    total = ((ab - a * b) / variances.sqrt() * whole).sum((1, 2))
    return total / whole.sum((1, 2)).clamp(min=1)


def _compare(test: Tensor, train: Tensor, candidates: Tensor) -> Tensor:
    """(N, S, S) test and (M, S, S) training images, grey levels, to (N, K) agreements with `candidates`.

    `candidates`: (N, K) int64, which of the training images. First at half size, which is quick and
    catches large shifts; the few that agree there, at full size. The others stay at -1.
    """
    scores = torch.full(candidates.shape, -1.0)
    own, rank = torch.ones_like(candidates).nonzero(as_tuple=True)
    place = torch.eye(2)[:1].repeat(len(own), 2, 1)  # zoom 1, shift 0
    half, other = avg_pool2d(test, 2), avg_pool2d(train[candidates.flatten()], 2)
    place = _aligned(half, own, other, place, ROUNDS[0])
    good = _agreement(half[own], other, place) >= ALIKE
    own, rank, place = own[good], rank[good], place[good]
    other = train[candidates[own, rank]]
    scores[own, rank] = _agreement(test[own], other, _aligned(test, own, other, place, ROUNDS[1]))
    return scores


def find_duplicates(test: Tensor, train: Tensor, config: DuplicatesConfig) -> Duplicates:
    """Return the near-duplicates between test and training images, both (N, 3, S, S) uint8, on the CPU.

    Two steps: the training images whose layout of colours correlates most with that of the test image or of
    its mirror image; then, of these, the one whose details agree most once it is laid over the test image.
    Skies and seas agree in the first step, copies in the second one too. Both look at 32 x 32 pixels.
    """
    test, train = _small(test), _small(train)
    layouts, grey = _layout(train), _grey(train)
    parts = []
    for part in test.split(100):
        scores, candidates = [], []
        for images in (part, part.flip(3)):
            close = (_layout(images) @ layouts.T).topk(min(CANDIDATES, len(train)), dim=1).indices
            candidates.append(close)
            scores.append(_compare(_grey(images), grey, close))
        best, rank = torch.cat(scores, 1).max(1)
        chosen = torch.cat(candidates, 1).gather(1, rank[:, None])[:, 0]
        parts.append((best, chosen, rank >= close.shape[1]))
    score, index, mirrored = (torch.cat(column) for column in zip(*parts, strict=True))
    order = score.argsort(descending=True, stable=True)
    found = order[score[order] >= config.threshold]
    return Duplicates(found, index[found], mirrored[found], score[found])
