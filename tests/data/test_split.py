"""The split against scikit-learn's, and what it promises."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor

from cifar_resnet.data.split import PreprocessConfig, stratified_split
from cifar_resnet.files.params import UserError
from cifar_resnet.randomness import generator

BALANCED = torch.arange(50_000) % 10


def counts(labels: Tensor, index: Tensor, classes: int = 10) -> list[int]:
    return labels[index].bincount(minlength=classes).tolist()


def test_the_split_takes_scikit_learns_shares_of_uneven_classes() -> None:
    labels = torch.tensor([0] * 17 + [1] * 301 + [2] * 88 + [3] * 54)[torch.randperm(460)]
    sklearn_split = StratifiedShuffleSplit(n_splits=1, test_size=101, random_state=0)
    _, theirs = next(sklearn_split.split(np.zeros(460), labels.numpy()))
    _, val = stratified_split(labels, 101, generator(0, "split"))
    assert counts(labels, val, 4) == counts(labels, torch.from_numpy(theirs), 4)


@settings(max_examples=50)
@given(st.lists(st.integers(2, 60), min_size=2, max_size=8), st.data())
def test_the_split_is_stratified_complete_disjoint_and_sorted(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    count = data.draw(st.integers(len(sizes), total - len(sizes)))
    shares = [Fraction(size * count, total) for size in sizes]
    assume(all(1 <= share <= size - 1 for share, size in zip(shares, sizes, strict=True)))
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(total, generator=torch.Generator().manual_seed(0))]
    train, val = stratified_split(labels, count, generator(0, "split"))
    assert len(val) == count
    for index in (train, val):
        assert torch.equal(index, index.sort().values)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(total))
    quotas = counts(labels, val, len(sizes))
    assert all(abs(quota - share) < 1 for quota, share in zip(quotas, shares, strict=True))
    up = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota > share]
    down = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota < share]
    assert not up or not down or min(up) >= max(down)


def test_the_split_of_a_seed_never_changes() -> None:
    """Published accuracies rest on these images."""
    train, val = stratified_split(BALANCED, 5_000, generator(0, "split"))
    digests = [hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest() for index in (train, val)]
    assert digests == [
        "7dacf4efeb7c4f2210a187532c4f51b8998be1931343385bf1db3dcbdade2c87",
        "540093b8443f68dc43f0cb4c42a6e6311800c948ae19f5624d056c6f60b64f95",
    ]


def test_another_seed_gives_another_split() -> None:
    splits = [stratified_split(BALANCED, 5_000, generator(seed, "split"))[1] for seed in range(4)]
    for i, one in enumerate(splits):
        for other in splits[:i]:
            common = len(set(one.tolist()) & set(other.tolist()))
            assert 400 < common < 600  # 500 by chance


@pytest.mark.parametrize("count", [9, 49_991, 60_000])
def test_a_split_that_leaves_a_class_empty_is_refused(count: int) -> None:
    for name in ("validation_images", "train_images"):
        with pytest.raises(UserError, match=rf"^{name} {count} .* at least 10 .* 50000.*$"):
            stratified_split(BALANCED, count, generator(0, "split"), name)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"leaves a class empty.* a class has a single one"):
        stratified_split(torch.tensor([0] * 50 + [1]), 10, generator(0, "split"))


@pytest.mark.parametrize("size", [8, 36, 136])
def test_image_sizes_that_the_network_cannot_halve_are_refused(size: int) -> None:
    with pytest.raises(ValidationError, match="image_size"):
        PreprocessConfig(image_size=size, validation_images=5_000, train_images=None, seed=0)
