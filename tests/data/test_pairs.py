"""Near-duplicates as a table and as a picture."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cifar_resnet.data.duplicates import Duplicates
from cifar_resnet.data.pairs import figure, table


def images(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=random)


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
    test, train = images(0), images(1)
    score = torch.tensor([0.9, 0.8, 0.95, 0.7, 0.75, 0.85, 1.0])[:count]
    drawn = figure(test[:count], train[:count], score)
    shown = [axes for axes in drawn.axes if axes.get_images()]
    assert [axes.get_title() for axes in shown] == [f"{value:.2f}" for value in sorted(score.tolist())]
    for axes, row in zip(shown, score.argsort().tolist(), strict=True):
        pixels = np.asarray(axes.get_images()[0].get_array())
        assert np.array_equal(pixels[:, :32], test[row].permute(1, 2, 0))
        assert np.array_equal(pixels[:, -32:], train[row].permute(1, 2, 0))
