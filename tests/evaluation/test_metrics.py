"""Every metric against scikit-learn, the calibration error against its paper's formula."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from cifar_resnet.evaluation import metrics, subsets
from cifar_resnet.evaluation.metrics import (
    accuracy_interval,
    confusion_matrix,
    confusions,
    evaluate,
    per_class,
)

BINS = 15


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


def random_case(seed: int, count: int, classes: int, ties: bool, skill: float) -> tuple[Tensor, Tensor]:
    """Logits that favour the right class by `skill`."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random) * 2
    logits[torch.arange(count), labels] += skill
    return logits.round() if ties else logits, labels


def paper_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, equations 2 and 3, word by word: bin m holds confidences in ((m - 1) / M, m / M]."""
    confidence = probabilities.double().numpy().max(1)
    right = probabilities.numpy().argmax(1) == labels.numpy()
    error = 0.0
    for m in range(1, BINS + 1):
        inside = (confidence > (m - 1) / BINS) & (confidence <= m / BINS)
        if inside.any():
            gap = right[inside].mean() - confidence[inside].mean()
            error += inside.sum() / len(labels) * abs(gap)
    return error


@given(
    st.integers(0, 2**31),
    st.integers(1, 300),
    st.integers(2, 12),
    st.booleans(),
    st.sampled_from([0.0, 1, 4]),
)
@settings(max_examples=50)
def test_metrics_equal_scikit_learns_and_the_papers(
    seed: int, count: int, classes: int, ties: bool, skill: float
) -> None:
    logits, labels = random_case(seed, count, classes, ties, skill)
    ours = evaluate(logits, labels)
    truth, guess = labels.numpy(), logits.numpy().argmax(1)
    every = list(range(classes))
    probabilities = logits.double().softmax(1)
    assert ours["test_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, guess), abs=1e-12)
    interval = accuracy_interval(ours["test_accuracy"], count)
    assert (ours["test_ci_low"], ours["test_ci_high"]) == interval
    loss = sklearn_metrics.log_loss(truth, probabilities.numpy(), labels=every)
    assert ours["test_loss"] == pytest.approx(loss, rel=1e-9)
    options: dict[str, Any] = {"labels": every, "zero_division": 0}
    f1 = sklearn_metrics.f1_score(truth, guess, average="macro", **options)
    assert ours["test_f1"] == pytest.approx(f1, abs=1e-12)
    matrix = confusion_matrix(logits.argmax(1), labels, classes)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), sklearn_metrics.confusion_matrix(truth, guess, labels=every))
    table = per_class(matrix, names(classes))
    assert table["class"].tolist() == names(classes)
    recall = sklearn_metrics.recall_score(truth, guess, average=None, **options)
    assert table["accuracy"].tolist() == pytest.approx(recall.tolist(), abs=1e-12)
    exact = paper_calibration_error(probabilities, labels)
    assert ours["test_ece"] == pytest.approx(exact, abs=1e-12)
    bins = metrics.reliability(probabilities, labels)
    assert bins["images"].sum() == count
    gaps = bins["images"] * (bins["accuracy"] - bins["confidence"]).abs()
    assert gaps.sum() / count == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("edge", "upper"), [(2 / BINS, False), (1, False), (7 / BINS + 1e-12, True)])
def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower(edge: float, upper: bool) -> None:
    """Right at the edge and wrong half a bin below it: the two gaps offset each other in one bin."""
    below = edge - 0.5 / BINS
    top = torch.tensor([edge, below], dtype=torch.float64)[:, None]  # of class 0
    probabilities = torch.cat([top, ((1 - top) / 19).expand(-1, 19)], dim=1)
    labels = torch.tensor([0, 1])
    expected = (1 - edge + below) / 2 if upper else abs(1 - edge - below) / 2
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)
    assert paper_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("right", "count"), [(9201, 10_000), (50, 50)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    low, high = accuracy_interval(right / count, count)
    z, p = 1.959963984540054, right / count
    centre, half = p + z**2 / (2 * count), z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    assert low == pytest.approx((centre - half) / (1 + z**2 / count), abs=1e-12)
    assert high == pytest.approx((centre + half) / (1 + z**2 / count), abs=1e-12)


def test_the_most_frequent_errors_in_words() -> None:
    matrix, classes = torch.tensor([[50, 3, 0], [7, 40, 3], [0, 1, 60]]), ["cat", "dog", "ship"]
    expected = [["dog taken for cat", 7], ["cat taken for dog", 3], ["dog taken for ship", 3]]
    assert confusions(matrix, classes, 3).values.tolist() == expected
    assert len(confusions(matrix, classes)) == 4  # only those that occurred
    assert confusions(matrix.diag().diag(), classes).columns.tolist() == ["error", "images"]


def test_predictions_begin_with_the_least_probable_label() -> None:
    logits, labels = random_case(5, 50, 3, ties=False, skill=1)
    rows = metrics.prediction_table(logits, labels, names(3), rejected=torch.tensor([4, 7]))
    chosen = -logits.double().log_softmax(1).numpy()[np.arange(50), labels.numpy()]
    assert rows["index"].tolist() == np.argsort(-chosen).tolist()
    for row in rows.to_dict("records"):
        i = row["index"]
        assert row["label"] == f"class {labels[i]}"
        assert row["prediction"] == f"class {logits[i].argmax()}"
        assert float(row["loss"]) == pytest.approx(chosen[i], abs=1e-6)
        assert float(row["confidence"]) == pytest.approx(logits[i].double().softmax(0).max().item(), abs=1e-6)
    assert sorted(rows["index"][rows["label_rejected"]]) == [4, 7]


def test_a_row_for_all_images_and_for_each_subset() -> None:
    hits = torch.tensor([True, True, False, False])
    subset = {"one": torch.tensor([2]), "none": torch.tensor([]).long(), "all": torch.arange(4)}
    table = subsets.accuracies(hits, subset)
    for row, expected in zip(
        table.to_dict("records"),
        [(subsets.ALL, 4, 0.5, 0), ("one", 3, 2 / 3, 1 / 6), ("none", 4, 0.5, 0)],
        strict=True,
    ):
        assert (row["images_left"], row["images"]) == expected[:2]
        assert (row["accuracy"], row["difference"]) == pytest.approx(expected[2:])
        assert (row["ci_low"], row["ci_high"]) == accuracy_interval(row["accuracy"], row["images"])


def test_the_published_lists_are_those_of_their_papers() -> None:
    assert len(set(subsets.published_duplicates().tolist())) == 286
    assert len(set(subsets.rejected_labels().tolist())) == 54
