"""From uint8 images to logits: normalization and the forward pass, shared by training and evaluation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from cifar_resnet.params import Config

Mean = Annotated[float, Field(ge=0, le=1)]
Std = Annotated[float, Field(gt=0, le=1)]


class NormalizationConfig(Config):
    """Channel `mean` and `std` (red, green, blue) of pixel values scaled to 0..1."""

    mean: tuple[Mean, Mean, Mean]
    std: tuple[Std, Std, Std]


class Normalization(NamedTuple):
    """(image / 255 - mean) / std as one multiplication and one addition, its constants on the device."""

    scale: Tensor  # (3, 1, 1) float32
    shift: Tensor  # (3, 1, 1) float32

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to float32 in channels_last."""
        return images.contiguous(memory_format=torch.channels_last) * self.scale + self.shift


def build_normalization(config: NormalizationConfig, device: torch.device) -> Normalization:
    """Return the normalization with its constants on `device`."""
    mean = torch.tensor(config.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(config.std, dtype=torch.float64).view(3, 1, 1)
    return Normalization((1 / (255 * std)).float().to(device), (-mean / std).float().to(device))


def forward(model: nn.Module, images: Tensor, normalization: Normalization, dtype: torch.dtype) -> Tensor:
    """Return the (N, classes) float32 logits of (N, 3, H, W) uint8 `images`.

    `dtype`: what convolutions and matrix products compute in (autocast).
    """
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(normalization(images))
    return logits.float()


def predict(
    model: nn.Module,
    batches: Iterable[Tensor],
    normalization: Normalization,
    dtype: torch.dtype,
    forward: Callable[..., Tensor] = forward,
) -> Iterator[Tensor]:
    """Yield the (N, classes) float32 logits of one batch after the other.

    `batches`: (N, 3, H, W) uint8 on any device, moved to the model's device in turn. All are run at the size
    of the first, shorter ones filled up: one shape to compile and to choose algorithms for. `forward`: a
    compiled one, perhaps.
    """
    size = 0
    model.eval()
    for batch in batches:
        size = size or len(batch)
        full = pad(batch, (0, 0, 0, 0, 0, 0, 0, size - len(batch))) if len(batch) < size else batch
        with torch.inference_mode():
            logits = forward(model, full.to(normalization.scale.device), normalization, dtype)
        yield logits[: len(batch)]


def predict_all(
    model: nn.Module, batches: Iterable[Tensor], normalization: Normalization, dtype: torch.dtype
) -> Tensor:
    """Return the (N, classes) float32 logits of all batches of `predict`, on the CPU."""
    return torch.cat([logits.cpu() for logits in predict(model, batches, normalization, dtype)])
