"""Near-duplicates: planted ones, the agreement in plain NumPy, a table and a picture."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cifar_resnet.data import duplicates, pairs
from cifar_resnet.data.duplicates import DuplicatesConfig, find_duplicates
from tests.made_up import random_images, shown

CONFIG = DuplicatesConfig(threshold=0.58)
COUNT = 12


def scenes(count: int, seed: int, size: int = 96) -> Tensor:
    """(N, 3, size, size) float with large forms and small ones of less contrast, as photographs have."""
    random = torch.Generator().manual_seed(seed)
    image = torch.full((count, 3, size, size), 128.0)
    for cells, weight in ((3, 40), (6, 30), (12, 20), (24, 12), (48, 8)):
        colours, grey = (torch.randn(count, of, cells, cells, generator=random) for of in (3, 1))
        image += weight * interpolate(colours + grey, size, mode="bicubic")
    return image.clamp(0, 255)


def photograph(images: Tensor, top: int = 12, left: int = 12, height: int = 64, width: int = 64) -> Tensor:
    """The part of the scenes that begins at `top` and `left`, as (N, 3, 32, 32) uint8."""
    part = images[:, :, top : top + height, left : left + width]
    return interpolate(part, (32, 32), mode="area").round().to(torch.uint8)


def bordered(images: Tensor) -> Tensor:
    framed = torch.full_like(images, 255)
    framed[:, :, 2:-2, 2:-2] = interpolate(images.float(), (28, 28), mode="area").to(torch.uint8)
    return framed


def cast(images: Tensor) -> Tensor:
    """Darker, and each channel by another share: a colour cast."""
    gain, lift = torch.tensor([[0.5, 0.7, 0.9], [60, 20, 0]]).view(2, 3, 1, 1).unbind()
    return (images.float() * gain + lift).clamp(0, 255).to(torch.uint8)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": photograph,
    "zoomed in": lambda scene: photograph(scene, 18, 18, 52, 52),
    "zoomed out": lambda scene: photograph(scene, 6, 6, 76, 76),
    "stretched": lambda scene: photograph(scene, 12, 17, 64, 54),
    "shifted": lambda scene: photograph(scene, 20, 6),
    "mirrored": lambda scene: photograph(scene).flip(3),
    "mirrored and zoomed": lambda scene: photograph(scene, 18, 16, 54, 54).flip(3),
    "colour cast": lambda scene: cast(photograph(scene)),
    "grey": lambda scene: photograph(scene.mean(1, keepdim=True).expand_as(scene)),
    "white border": lambda scene: bordered(photograph(scene)),
}


def test_copies_are_found_however_they_were_changed() -> None:
    train = torch.cat([photograph(scenes(COUNT, seed=0)), photograph(scenes(60, seed=1))])
    other = photograph(scenes(8, seed=2))
    copies = [change(scenes(COUNT, seed=0)) for change in CHANGES.values()]
    found = find_duplicates(torch.cat([other, *copies]), train, CONFIG)
    expected = [
        (8 + row * COUNT + index, index, "mirrored" in change)
        for row, change in enumerate(CHANGES)
        for index in range(COUNT)
    ]
    assert sorted(zip(*(column.tolist() for column in found[:3]), strict=True)) == expected
    assert (found.score.diff() <= 0).all()
    assert [column.dtype for column in found] == [torch.int64, torch.int64, torch.bool, torch.float32]


def test_images_of_another_size_are_compared_at_32_pixels() -> None:
    train, test = (
        interpolate(photograph(scenes(6, seed)).float(), (64, 64), mode="area").to(torch.uint8)
        for seed in (0, 1)
    )
    found = find_duplicates(torch.cat([test, train[2:4].flip(3)]), train, CONFIG)
    assert sorted(zip(found.test.tolist(), found.train.tolist(), strict=True)) == [(6, 2), (7, 3)]
    assert found.mirrored.all()


def seas(count: int, seed: int) -> Tensor:
    """(N, 3, 32, 32) uint8: bright sky over dark sea, a small dark ship on the horizon, some noise."""
    random = torch.Generator().manual_seed(seed)
    image = torch.full((count, 3, 32, 32), 190.0)
    image[:, :, 18:] = 120
    for one in image:
        left, width, height = (int(torch.randint(4, 12, (), generator=random)) for _ in range(3))
        one[:, 18 - height // 2 : 19, left : left + width] = 60
    noise = 3 * torch.randn(count, 3, 32, 32, generator=random)
    return (image + noise).clamp(0, 255).to(torch.uint8)


def test_what_shares_a_horizon_or_a_frame_or_is_flat_is_not_found() -> None:
    framed = [bordered(photograph(scenes(count, seed))) for count, seed in ((10, 5), (20, 6))]
    flat = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
    for test, train in ((seas(20, seed=3), seas(40, seed=4)), framed, (flat, flat)):
        assert [len(column) for column in find_duplicates(test, train, CONFIG)] == [0] * 4


def plain_agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    values = []
    for top in range(a.shape[0] - 2):
        for left in range(a.shape[1] - 2):
            one, other = (x[top : top + 3, left : left + 3].ravel() for x in (a, b))
            product = (one.var() + duplicates.NOISE**2) * (other.var() + duplicates.NOISE**2)
            values.append(np.cov(one, other, bias=True)[0, 1] / product**0.5)
    return float(np.mean(values))


def test_agreement_equals_a_plain_one_where_the_images_overlap() -> None:
    a, b = (scenes(1, seed, 32)[:, 0] for seed in (9, 10))
    a = a + b
    place = torch.tensor([[[1, 3 / 32], [1, -2 / 32]]])  # the test image's pixel at x reads from x + 3, y - 2
    ours = float(duplicates._agreement(a, b, place))
    x, y = a[0].double().numpy()[2:, :-3], b[0].double().numpy()[:-2, 3:]
    assert ours == pytest.approx(plain_agreement(x, y), abs=1e-4)


def test_table_names_both_images_of_a_pair_and_their_labels() -> None:
    columns = ([2, 0], [1, 3], [True, False], [0.98767, 0.5])
    found = duplicates.Duplicates(*map(torch.tensor, columns))
    rows = pairs.table(found, torch.tensor([1, 0, 0]), torch.tensor([0, 1, 1, 0]), ["bird", "cat"])
    assert list(rows) == ["test_index", "test_label", "train_index", "train_label", "mirrored", "score"]
    assert rows.values.tolist() == [[2, "bird", 1, "cat", True, 0.9877], [0, "cat", 3, "bird", False, 0.5]]


@pytest.mark.parametrize("count", [0, 7])
def test_figure_shows_pairs_side_by_side_the_least_alike_first(count: int) -> None:
    test, train = (random_images(7, seed=seed).images for seed in (0, 1))
    score = torch.tensor([0.9, 0.8, 0.95, 0.7, 0.75, 0.85, 1.0])[:count]
    drawn = pairs.figure(test[:count], train[:count], score)
    order = score.argsort()
    titles, pictures = zip(*shown(drawn), strict=True) if count else ((), ())
    assert list(titles) == [f"{value:.2f}" for value in score[order].tolist()]
    for pixels, row in zip(pictures, order.tolist(), strict=True):
        assert np.array_equal(pixels[:, :32], test[row].permute(1, 2, 0))
        assert np.array_equal(pixels[:, -32:], train[row].permute(1, 2, 0))
