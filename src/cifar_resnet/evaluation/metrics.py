"""Metrics of a classifier, from its logits and the true labels."""

import pandas as pd
import torch
from pydantic import Field
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import cross_entropy

from cifar_resnet.numerics import Device, Precision
from cifar_resnet.params import Config

CALIBRATION_BINS = 15


class EvaluateConfig(Config):
    """How the test set is run through the network; the batch size changes speed and memory only.

    `flip`: also average the logits of each image and of its mirror image (test-time augmentation).
    """

    batch_size: int = Field(ge=1)
    flip: bool
    device: Device
    precision: Precision


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers, 0 of none. `logits`: (N, classes); `labels`: (N,) int64."""
    return float((logits.argmax(1) == labels).sum()) / max(len(labels), 1)


def accuracy_interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of an accuracy measured on `count` images.

    Wilson 1927, https://doi.org/10.2307/2276774: as if they were drawn at random from all such images.
    """
    interval = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(predicted: Tensor, actual: Tensor, classes: int) -> Tensor:
    """Return the (classes, classes) int64 counts: row the actual class, column the predicted one."""
    return torch.bincount(actual * classes + predicted, minlength=classes**2).view(classes, classes)


def macro_f1(matrix: Tensor) -> float:
    """Return the mean F1 of the classes; a class that is neither predicted nor present has F1 0.

    `matrix`: (classes, classes) counts, rows actual.
    """
    matrix = matrix.double()
    return float((2 * matrix.diag() / (matrix.sum(0) + matrix.sum(1)).clamp(min=1)).mean())


def reliability(probabilities: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return mean confidence, accuracy and number of images of each bin of the top probability.

    `probabilities`: (N, classes). The bins are equally wide, with their upper ends. Those without images are
    left out.
    """
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * CALIBRATION_BINS).ceil().clamp(1, CALIBRATION_BINS)
    rows = pd.DataFrame({"confidence": confidence.numpy(), "hit": (predicted == labels).numpy()})
    columns = {"confidence": ("confidence", "mean"), "accuracy": ("hit", "mean"), "images": ("hit", "size")}
    return rows.groupby(bins.numpy()).agg(**columns).reset_index(drop=True)


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over the bins of `reliability`.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3. `probabilities`: (N, classes).
    """
    bins = reliability(probabilities, labels)
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return float((bins["images"] * gaps).sum() / len(labels))


def per_class(matrix: Tensor, class_names: list[str]) -> pd.DataFrame:
    """Return the accuracy of each class, 0 without images.

    `matrix`: (classes, classes) counts, rows actual.
    """
    shares = matrix.diag().double() / matrix.sum(1).clamp(min=1)
    return pd.DataFrame({"class": class_names, "accuracy": shares.numpy()})


def confusions(matrix: Tensor, class_names: list[str], count: int = 10) -> pd.DataFrame:
    """Return the most frequent errors in words with the number of their images, the most frequent first.

    `matrix`: (classes, classes) counts, rows actual.
    """
    errors = (matrix - matrix.diag().diag()).flatten()
    cells = errors.argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(*divmod(cell, len(class_names)), int(errors[cell])) for cell in cells if errors[cell]]
    rows = [(f"{class_names[a]} taken for {class_names[p]}", images) for a, p, images in pairs]
    return pd.DataFrame(rows, columns=["error", "images"])


def evaluate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy with its 95 % interval, loss, macro F1 and calibration error; all but the loss in 0..1.

    `logits`: (N, classes) float32, `labels`: (N,) int64, both on the CPU. A new metric is an entry here and
    a row in docs/help.md; stages/evaluate.py and tools/recomputed.py if predictions.csv does not suffice.
    """
    share = accuracy(logits, labels)
    low, high = accuracy_interval(share, len(labels))
    return {
        "test_accuracy": share,
        "test_ci_low": low,
        "test_ci_high": high,
        "test_loss": float(cross_entropy(logits.double(), labels)),
        "test_f1": macro_f1(confusion_matrix(logits.argmax(1), labels, logits.shape[1])),
        "test_ece": calibration_error(logits.double().softmax(1), labels),
    }


def prediction_table(
    logits: Tensor, labels: Tensor, class_names: list[str], rejected: Tensor
) -> pd.DataFrame:
    """Return a row per image, the one with the least probable label first: that label may be wrong.

    `logits`: (N, classes), `labels`: (N,) int64; `loss` is minus the logarithm of the label's probability.
    `rejected`: (K,) int64, the images whose label people found wrong.
    """
    losses = cross_entropy(logits.double(), labels, reduction="none")
    confidence, predicted = logits.double().softmax(1).max(1)
    table = pd.DataFrame(
        {
            "label": [class_names[label] for label in labels],
            "prediction": [class_names[label] for label in predicted],
            "confidence": confidence.numpy().round(6),
            "loss": losses.numpy().round(6),
            "label_rejected": torch.isin(torch.arange(len(labels)), rejected).numpy(),
        }
    )
    order = losses.argsort(descending=True, stable=True).numpy()
    return table.rename_axis("index").iloc[order].reset_index()
