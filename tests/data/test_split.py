"""What the split promises."""

import hashlib
import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cifar_resnet.data.split import stratified_split
from cifar_resnet.errors import UserError
from cifar_resnet.randomness import generator

BALANCED = torch.arange(50_000) % 10


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
    quotas = labels[val].bincount(minlength=len(sizes)).tolist()
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


def test_a_split_that_leaves_a_class_empty_is_refused() -> None:
    for count, name in itertools.product((9, 49_991, 60_000), ("validation_images", "train_images")):
        with pytest.raises(UserError, match=rf"^{name} {count} .* at least 10 .* 50000.*$"):
            stratified_split(BALANCED, count, generator(0, "split"), name)
    with pytest.raises(UserError, match=r"leaves a class empty.* a class has a single one"):
        stratified_split(torch.tensor([0] * 50 + [1]), 10, generator(0, "split"))
