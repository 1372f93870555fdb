"""Accuracy on subsets of the test images, its paired difference against a bootstrap, the published lists."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from cifar_resnet.evaluation import subsets


def case(count: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits and which images are left; the others are easier."""
    random = torch.Generator().manual_seed(0)
    left = torch.rand(count, generator=random) > 0.1
    hits = torch.rand(count, generator=random) < torch.where(left, 0.9, 0.99)
    return hits, left


def test_the_paired_difference_has_the_interval_of_a_bootstrap() -> None:
    hits, left = case()
    x, w = hits.numpy().astype(float), left.numpy().astype(float)

    def statistic(x: np.ndarray, w: np.ndarray, axis: int) -> Any:
        return (x * w).sum(axis) / w.sum(axis) - x.mean(axis)

    resampled = bootstrap((x, w), statistic, paired=True, method="basic", n_resamples=4000, rng=0)
    difference, low, high = subsets.difference_interval(hits, left)
    assert difference == pytest.approx(x[w > 0].mean() - x.mean(), abs=1e-12)
    width = resampled.confidence_interval.high - resampled.confidence_interval.low
    assert high - low == pytest.approx(width, rel=0.08)
    assert low == pytest.approx(resampled.confidence_interval.low, abs=0.1 * width)


def test_a_row_for_all_images_and_for_each_subset() -> None:
    hits = torch.tensor([True, True, False, False])
    table = subsets.accuracies(
        hits, {"one": torch.tensor([2]), "none": torch.tensor([], dtype=torch.int64), "no": torch.arange(4)}
    ).set_index("images_left")
    assert table.index.tolist() == [subsets.ALL, "one", "none"]
    assert table["images"].tolist() == [4, 3, 4]
    assert table["accuracy"].tolist() == pytest.approx([0.5, 2 / 3, 0.5])
    assert table["difference"].tolist() == pytest.approx([0, 1 / 6, 0])
    assert table["difference_low"].iloc[0] == table["difference_high"].iloc[0] == 0
    assert (table["ci_low"] < table["accuracy"]).all()


def test_the_published_lists_are_those_of_their_papers() -> None:
    assert len(set(subsets.published_duplicates().tolist())) == 286
    assert len(set(subsets.rejected_labels().tolist())) == 54
    for indices in (subsets.published_duplicates(), subsets.rejected_labels()):
        assert 0 <= int(indices.min()) < int(indices.max()) < 10_000
