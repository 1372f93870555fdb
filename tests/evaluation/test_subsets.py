"""Accuracy on subsets of the test images, its paired difference against a bootstrap, the published lists."""

import numpy as np
import pytest
import torch

from cifar_resnet.evaluation import subsets


def test_the_paired_difference_has_the_interval_of_a_bootstrap() -> None:
    random = np.random.default_rng(0)
    left = random.random(2000) > 0.1
    hits = random.random(2000) < np.where(left, 0.9, 0.99)  # the others are easier
    difference, low, high = subsets.difference_interval(torch.from_numpy(hits), torch.from_numpy(left))
    samples = random.integers(2000, size=(4000, 2000))
    x, w = hits[samples], left[samples]
    differences = (x & w).sum(1) / w.sum(1) - x.mean(1)
    assert difference == pytest.approx(hits[left].mean() - hits.mean(), abs=1e-12)
    assert high - low == pytest.approx(2 * 1.96 * differences.std(), rel=0.05)
    assert (low + high) / 2 == pytest.approx(difference)


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
