"""Metrics of a classifier, from its logits and the true labels."""

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from cifar_resnet.device import Device, Precision

CALIBRATION_BINS = 15


class EvaluateConfig(BaseModel):
    """How the test set is run through the network; the batch size changes speed and memory only.

    `flip`: also average the logits of each image and of its mirror image (test-time augmentation).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(ge=1)
    flip: bool
    device: Device
    precision: Precision


def confusion_matrix(predicted: Tensor, actual: Tensor, classes: int) -> Tensor:
    """Return the (classes, classes) int64 counts: row the actual class, column the predicted one."""
    return torch.bincount(actual * classes + predicted, minlength=classes**2).view(classes, classes)


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over equal-width bins of the top probability.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3. `probabilities`: (N, classes).
    """
    confidence, predicted = probabilities.max(1)
    bins = (confidence * CALIBRATION_BINS).ceil().clamp(1, CALIBRATION_BINS).long() - 1  # (lower, upper]
    gaps = (predicted == labels).double() - confidence.double()
    sums = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(0, bins, gaps)
    return float(sums.abs().sum() / len(labels))


def evaluate(logits: Tensor, labels: Tensor, class_names: list[str]) -> dict[str, Any]:
    """Return accuracy, loss, macro F1, calibration error and accuracy per class; all but the loss in 0..1.

    `logits`: (N, classes) float32, `labels`: (N,) int64, both on the CPU. A class that is neither predicted
    nor present has F1 0; the accuracy of a class without images is 0.
    """
    matrix = confusion_matrix(logits.argmax(1), labels, len(class_names)).double()
    correct, actual, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    per_class = correct / actual.clamp(min=1)
    f1 = 2 * correct / (actual + predicted).clamp(min=1)
    return {
        "accuracy": float(correct.sum() / len(labels)),
        "loss": float(cross_entropy(logits.double(), labels)),
        "macro_f1": float(f1.mean()),
        "expected_calibration_error": calibration_error(logits.double().softmax(1), labels),
        "per_class_accuracy": dict(zip(class_names, per_class.tolist(), strict=True)),
    }
