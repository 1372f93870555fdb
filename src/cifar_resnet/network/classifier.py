"""A trained network with all that it takes to use it."""

from pathlib import Path
from typing import NamedTuple

import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network.inference import Normalization, NormalizationConfig, build_normalization
from cifar_resnet.network.model import ModelConfig, ResNet, restore_model


class Classifier(NamedTuple):
    """A network in evaluation mode with its normalization on its device, and the names of its classes."""

    model: ResNet
    normalization: Normalization
    class_names: list[str]


def read_classifier(path: Path, device: torch.device) -> Classifier:
    """Return the classifier in a model file of `train`, in float32 whatever the file has.

    Raises UserError when the file is missing, is not as it was written, describes no network, or when its
    weights do not fit the network that it describes.
    """
    weights, about = files.read_tensors(path)
    if missing := {"classes", "model", "normalization"} - about.keys():
        raise UserError(f"{path} holds no trained network: it does not say its {min(missing)}")
    class_names: list[str] = about["classes"]
    model = restore_model(ModelConfig(**about["model"]), len(class_names), weights).float().to(device).eval()
    normalization = build_normalization(NormalizationConfig(**about["normalization"]), device)
    return Classifier(model, normalization, class_names)
