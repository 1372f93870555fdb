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


def calibration_bins(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return what falls into equal-width bins of the top probability: images, their confidences, hits.

    `probabilities`: (N, classes); (3, CALIBRATION_BINS) float64 sums.
    """
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * CALIBRATION_BINS).ceil().clamp(1, CALIBRATION_BINS).long() - 1  # (lower, upper]
    values = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).double()])
    return torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64).index_add(1, bins, values)


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over equal-width bins of the top probability.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3. `probabilities`: (N, classes).
    """
    _, confidences, hits = calibration_bins(probabilities, labels)
    return float((hits - confidences).abs().sum() / len(labels))


def reliability(probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Return the mean confidence, the accuracy and the number of images of each bin that holds any."""
    return [
        {"confidence": confidence / images, "accuracy": hits / images, "images": int(images)}
        for images, confidence, hits in calibration_bins(probabilities, labels).T.tolist()
        if images
    ]


def top_confusions(matrix: Tensor, class_names: list[str], count: int = 10) -> dict[str, int]:
    """Return the most frequent errors in words with their counts, the most frequent first.

    `matrix`: (classes, classes) counts, rows actual.
    """
    errors = matrix - matrix.diag().diag()
    cells = errors.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [divmod(cell, len(class_names)) for cell in cells if errors.flatten()[cell]]
    return {f"{class_names[a]} taken for {class_names[p]}": int(errors[a, p]) for a, p in pairs}


def accuracy_without(excluded: list[int], logits: Tensor, labels: Tensor) -> float:
    """Return the accuracy on all images but the `excluded` ones; 0 when none is left."""
    left = torch.ones(len(labels), dtype=torch.bool)
    left[excluded] = False
    return float((logits.argmax(1) == labels)[left].sum() / left.sum().clamp(min=1))


def evaluate(logits: Tensor, labels: Tensor, class_names: list[str]) -> dict[str, Any]:
    """Return accuracy, loss, macro F1, calibration error, accuracy per class and the most frequent errors.

    All are in 0..1 but the loss and the counts of errors.

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
        "top_confusions": top_confusions(matrix.long(), class_names),
    }


def predictions(logits: Tensor, labels: Tensor, class_names: list[str]) -> list[dict[str, Any]]:
    """Return a row per image, the one with the least probable label first: that label may be wrong.

    `logits`: (N, classes), `labels`: (N,) int64; `loss` is minus the logarithm of the label's probability.
    """
    losses = cross_entropy(logits.double(), labels, reduction="none")
    confidence, predicted = logits.double().softmax(1).max(1)
    return [
        {
            "index": i,
            "label": class_names[labels[i]],
            "prediction": class_names[predicted[i]],
            "confidence": f"{confidence[i]:.6f}",
            "loss": f"{losses[i]:.6f}",
        }
        for i in losses.argsort(descending=True, stable=True).tolist()
    ]
