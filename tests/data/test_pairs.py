"""Near-duplicates as a table and as a picture."""

import numpy as np
import pytest
import torch

from cifar_resnet.data.duplicates import Duplicates
from cifar_resnet.data.pairs import figure, table
from tests.made_up import random_images, shown


def test_table_names_both_images_of_a_pair_and_their_labels() -> None:
    found = Duplicates(
        torch.tensor([2, 0]), torch.tensor([1, 3]), torch.tensor([True, False]), torch.tensor([0.98767, 0.5])
    )
    rows = table(found, torch.tensor([1, 0, 0]), torch.tensor([0, 1, 1, 0]), ["bird", "cat"])
    assert rows.to_dict("list") == {
        "test_index": [2, 0],
        "test_label": ["bird", "cat"],
        "train_index": [1, 3],
        "train_label": ["cat", "bird"],
        "mirrored": [True, False],
        "score": [0.9877, 0.5],
    }


@pytest.mark.parametrize("count", [0, 7])
def test_figure_shows_pairs_side_by_side_the_least_alike_first(count: int) -> None:
    test, train = (random_images(7, seed=seed).images for seed in (0, 1))
    score = torch.tensor([0.9, 0.8, 0.95, 0.7, 0.75, 0.85, 1.0])[:count]
    drawn = figure(test[:count], train[:count], score)
    order = score.argsort()
    titles, pictures = zip(*shown(drawn), strict=True) if count else ((), ())
    assert list(titles) == [f"{value:.2f}" for value in score[order].tolist()]
    for pixels, row in zip(pictures, order.tolist(), strict=True):
        assert np.array_equal(pixels[:, :32], test[row].permute(1, 2, 0))
        assert np.array_equal(pixels[:, -32:], train[row].permute(1, 2, 0))
