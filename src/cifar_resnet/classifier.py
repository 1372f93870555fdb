"""A trained network with all that it takes to use it."""

from pathlib import Path
from typing import NamedTuple

import torch

from cifar_resnet import tensorfile
from cifar_resnet.inference import Normalization, NormalizationConfig, build_normalization
from cifar_resnet.model import ModelConfig, ResNet, restore_model


class Classifier(NamedTuple):
    """A network in evaluation mode with its normalization on its device, and the names of its classes."""

    model: ResNet
    normalization: Normalization
    class_names: list[str]


def read_classifier(path: Path, device: torch.device) -> Classifier:
    """Return the classifier in a model file of `train`, in float32 whatever the file has.

    Raises DamagedError when the file is not as it was written, ValueError when its weights do not fit the
    network that it describes.
    """
    weights, about = tensorfile.read(path)
    class_names: list[str] = about["classes"]
    model = restore_model(ModelConfig(**about["model"]), len(class_names), weights).float().to(device).eval()
    normalization = build_normalization(NormalizationConfig(**about["normalization"]), device)
    return Classifier(model, normalization, class_names)
