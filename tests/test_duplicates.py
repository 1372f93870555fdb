"""Near-duplicates: planted ones, and the same search written plainly in NumPy and SciPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn.functional import interpolate

from cifar_resnet.duplicates import CompareConfig, find_twins

CONFIG = CompareConfig(threshold=0.7)


def scenes(count: int, seed: int) -> Tensor:
    """(N, 3, 40, 40) uint8 with large forms and small ones, as photographs have."""
    random = torch.Generator().manual_seed(seed)
    image = torch.full((count, 3, 40, 40), 128.0)
    for size, weight in ((4, 60), (12, 12), (40, 6)):
        noise = torch.randn(count, 3, size, size, generator=random)
        image += weight * interpolate(noise, 40, mode="bicubic")
    return image.clamp(0, 255).to(torch.uint8)


def crop(images: Tensor, top: int = 4, left: int = 4) -> Tensor:
    return images[:, :, top : top + 32, left : left + 32]


def test_copies_are_found_however_they_were_changed() -> None:
    train, other = scenes(60, seed=0), crop(scenes(20, seed=1))
    darker = (train[10:20].float() * 0.6 + 20).to(torch.uint8)
    copies = [crop(train[:10]), crop(darker), crop(train[20:30], 3, 6), crop(train[30:40]).flip(3)]
    twins = find_twins(torch.cat([other[:10], *copies, other[10:]]), crop(train), CONFIG)
    by_test = twins.test.argsort()
    assert twins.test[by_test].tolist() == list(range(10, 50))
    assert twins.train[by_test].tolist() == list(range(40))
    assert twins.mirrored[by_test].tolist() == [False] * 30 + [True] * 10
    assert (twins.correlation.diff() <= 0).all()
    assert twins.correlation[by_test][:10].tolist() == pytest.approx([1] * 10, abs=1e-5)


def plain_details(image: NDArray[np.float64]) -> NDArray[np.float64]:
    grey = image.mean(0)
    return np.asarray(grey - uniform_filter(grey, 5, mode="mirror"))


def plain_twin(image: Tensor, train: Tensor) -> tuple[float, int, bool]:
    """The best correlation of details over all shifts, and whose it is, among ten images of like layout."""
    best = (-1.0, 0, False)
    half = train.double().numpy().reshape(len(train), 3, 16, 2, 16, 2).mean((3, 5)).reshape(len(train), -1)
    for mirrored in (False, True):
        pixels = image.double().numpy()[:, :, ::-1] if mirrored else image.double().numpy()
        layout = pixels.reshape(3, 16, 2, 16, 2).mean((2, 4)).ravel()
        alike = np.array([np.corrcoef(layout, row)[0, 1] for row in half])
        for i in np.argsort(-alike)[:10]:
            if alike[i] < 0.75:
                continue
            middle, whole = plain_details(pixels)[3:29, 3:29], plain_details(train[i].double().numpy())
            for top in range(7):
                for left in range(7):
                    shifted = whole[top : top + 26, left : left + 26]
                    value = np.corrcoef(middle.ravel(), shifted.ravel())[0, 1]
                    best = max(best, (float(value), int(i), mirrored))
    return best


def test_the_search_equals_a_plain_one() -> None:
    train = scenes(30, seed=2)
    noise = torch.randn(12, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    noisy = (train[:12].float() + noise * torch.arange(12).view(-1, 1, 1, 1) * 4).clamp(0, 255).byte()
    test = torch.cat([crop(noisy[:6], 3, 5), crop(noisy[6:]).flip(3)])
    twins = find_twins(test, crop(train), CompareConfig(threshold=0.05))
    found = zip(*(column.tolist() for column in twins), strict=True)
    ours = {index: (correlation, train, mirrored) for index, train, mirrored, correlation in found}
    assert len(ours) == 12
    for index, image in enumerate(test):
        correlation, train_index, mirrored = plain_twin(image, crop(train))
        assert ours[index] == (pytest.approx(correlation, abs=1e-5), train_index, mirrored)


def test_nothing_alike_is_no_twin() -> None:
    twins = find_twins(crop(scenes(3, seed=4)), crop(scenes(5, seed=5)), CONFIG)
    assert [len(column) for column in twins] == [0, 0, 0, 0]


def test_flat_images_are_no_twins() -> None:
    flat = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
    assert len(find_twins(flat, flat, CONFIG).test) == 0


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValidationError):
        CompareConfig(threshold=threshold)
