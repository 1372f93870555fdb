"""A trained network with all that it takes to use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, TypeAdapter

from cifar_resnet import files
from cifar_resnet.errors import UserError
from cifar_resnet.network.base import Network
from cifar_resnet.network.inference import Normalization, NormalizationConfig, build_normalization
from cifar_resnet.network.model import ModelConfig, read_config, restore_model, to_metadata

IMAGE_SIZE = 32  # pixels; a model file that names no size means this one, CIFAR-10's
LARGEST = 1024  # pixels; more than training takes, and little enough for the memory


class Classifier(NamedTuple):
    """A network in evaluation mode with its normalization on its device, and the names of its classes."""

    model: Network
    normalization: Normalization
    class_names: list[str]
    image_size: int  # pixels: side of the images that it was trained on


def model_metadata(
    model: ModelConfig, normalization: NormalizationConfig, class_names: list[str], image_size: int
) -> dict[str, Any]:
    """Return what a model file has to say beside the weights, for `read_classifier`."""
    about = {
        "model": to_metadata(model),
        "normalization": normalization.model_dump(mode="json"),
        "classes": class_names,
    }
    return about if image_size == IMAGE_SIZE else about | {"image_size": image_size}


def image_size(about: Mapping[str, Any]) -> int:
    """Return the side in pixels of the images that the network of a model file was trained on.

    Raises ValueError, TypeError or OverflowError when that is no size from 1 to `LARGEST`.
    """
    size = int(about.get("image_size", IMAGE_SIZE))
    if not 1 <= size <= LARGEST:
        raise ValueError(f"its image_size is {size}")
    return size


def read_classifier(path: Path, device: torch.device) -> Classifier:
    """Return the classifier in a model file of `train`, in float32 whatever the file has.

    Raises UserError when the file is missing, is not as it was written, describes no network, or when its
    weights do not fit the network that it describes.
    """
    weights, about = files.read_tensors(path)
    if missing := {"classes", "model", "normalization"} - about.keys():
        raise UserError(f"{path} holds no trained network: it does not say its {min(missing)}")
    try:
        class_names = TypeAdapter(Annotated[list[str], Field(min_length=1)]).validate_python(about["classes"])
        config, size = read_config(about["model"]), image_size(about)
        statistics = NormalizationConfig.model_validate(about["normalization"])
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} describes a network that this code does not know: {error}") from None
    if not all(not tensor.is_complex() and tensor.float().isfinite().all() for tensor in weights.values()):
        raise UserError(f"{path} has weights that are NaN, infinite or complex")
    model = restore_model(config, len(class_names), weights).float().to(device).eval()
    return Classifier(model, build_normalization(statistics, device), class_names, size)
