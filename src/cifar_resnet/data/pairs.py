"""Near-duplicates as a table and as a picture."""

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cifar_resnet.data.duplicates import Duplicates
from cifar_resnet.images import image_grid


def table(
    found: Duplicates, test_labels: Tensor, train_labels: Tensor, class_names: list[str]
) -> pd.DataFrame:
    """Return a row per pair, with the names of both labels. `..._labels`: (N,) int64."""
    return pd.DataFrame(
        {
            "test_index": found.test.numpy(),
            "test_label": [class_names[label] for label in test_labels[found.test]],
            "train_index": found.train.numpy(),  # the validation images count after the training images
            "train_label": [class_names[label] for label in train_labels[found.train]],
            "mirrored": found.mirrored.numpy(),
            "score": found.score.numpy().astype("float64").round(4),
        }
    )


def figure(test: Tensor, train: Tensor, score: Tensor, count: int = 40) -> Figure:
    """Show pairs of a test image (left) and the training image that it resembles, the least alike first.

    `test`, `train`: (N, 3, H, W) uint8, pair by pair; `score`: (N,).
    """
    order = score.argsort(stable=True)[:count]
    heading = (
        f"Test images beside their near-duplicates in the training data: the {len(order)} least alike of"
        f" {len(score)}, with their score"
    )
    left, right = test[order], train[order]
    gap = torch.full_like(left[..., :2], 255)
    titles = [f"{value:.2f}" for value in score[order]]
    return image_grid(torch.cat([left, gap, right], dim=3), titles, columns=5, heading=heading)
