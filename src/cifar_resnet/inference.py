"""From uint8 images to logits: normalization and the forward pass, shared by training and evaluation."""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Mean = Annotated[float, Field(ge=0, le=1)]
Std = Annotated[float, Field(gt=0, le=1)]


class NormalizationConfig(BaseModel):
    """Channel `mean` and `std` (red, green, blue) of pixel values scaled to 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


def predict(
    model: nn.Module, images: Tensor, normalization: Normalization, batch_size: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield the (batch, classes) float32 logits of one batch of `images` after the other.

    `images`: (N, 3, 32, 32) uint8 on any device; a batch is moved to the model's device when its turn comes.
    `dtype`: what convolutions and matrix products compute in (autocast).
    """
    device = normalization.scale.device
    model.eval()
    for batch in images.split(batch_size):
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(normalization(batch.to(device))).float()
        yield logits
