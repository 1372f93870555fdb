"""Accuracy without some of the test images: near-duplicates of training images, labels that people reject."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cifar_resnet.evaluation.metrics import accuracy_interval

PUBLISHED = Path(__file__).parent / "published"
ALL, NEAR_DUPLICATES = "all test images", "without near-duplicates"
REJECTED = "without labels that people rejected"
NONE = torch.tensor([], dtype=torch.int64)


def published_duplicates() -> Tensor:
    """Return the CIFAR-10 test images, (286,) int64, which people found again among the training images.

    Barz and Denzler 2020, https://arxiv.org/abs/1902.00423, from the repository cvjena/cifair. They did not
    look for mirror images.
    """
    return torch.tensor(pd.read_csv(PUBLISHED / "cifair10_duplicates.csv")["test_index"].to_list())


def rejected_labels() -> Tensor:
    """Return the CIFAR-10 test images, (54,) int64, whose label fewer than three of five people chose.

    Northcutt et al. 2021, https://arxiv.org/abs/2103.14749, from the repository cleanlab/label-errors
    (Apache-2.0): the votes on 275 labels that were doubted.
    """
    votes = pd.read_csv(PUBLISHED / "cifar10_label_errors.csv")
    return torch.tensor(votes["test_index"][votes["votes_given"] < 3].to_list())


def excluded_indices(dataset: str, duplicates: "pd.Series[int]") -> dict[str, Tensor]:
    """Return which test images each subset lacks, (K,) int64 by its name.

    `duplicates`: those that this repository found; CIFAR-10 has published lists, too.
    """
    found = {NEAR_DUPLICATES: torch.tensor(duplicates.to_list(), dtype=torch.int64)}
    if dataset == "cifar10":
        found["without near-duplicates that people found"] = published_duplicates()
        found[REJECTED] = rejected_labels()
    return found


def accuracies(hits: Tensor, excluded: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return a row for all images and one for each subset: accuracy, its interval, the difference from all.

    `hits`: (N,) bool, whether the answer is right; `excluded`: as `excluded_indices` returns it. A subset
    without any image has no row.
    """
    rows = []
    for name, indices in {ALL: NONE, **excluded}.items():
        left = hits[~torch.isin(torch.arange(len(hits)), indices)]
        if len(left):
            share = float(left.double().mean())
            interval = accuracy_interval(share, len(left))
            rows.append((name, len(left), share, *interval, share - float(hits.double().mean())))
    columns = ["images_left", "images", "accuracy", "ci_low", "ci_high", "difference"]
    return pd.DataFrame(rows, columns=columns)
