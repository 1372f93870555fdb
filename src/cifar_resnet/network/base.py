"""What every network tells of itself: to the model card, to Grad-CAM, to its initialization."""

from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """A network from (N, 3, H, W) float32 images to (N, classes) logits.

    A subclass is made with its section of params.yaml and the number of classes. It takes images of any size,
    and it draws no random numbers: `model.build_model` sets all weights.
    """

    def __init__(self, config: Any, classes: int) -> None:  # noqa: ARG002 -- what a subclass takes
        super().__init__()

    name: str  # what the model card calls it
    description: str  # one or two sentences for the model card
    torchvision: str | None = None  # function of torchvision.models with the same names and shapes of weights

    @property
    def last_block(self) -> nn.Module:
        """The module whose (N, C, h, w) output is pooled for the logits: what Grad-CAM looks at."""
        raise NotImplementedError

    @property
    def residual_gammas(self) -> list[Tensor]:
        """The weights of each block's last batch norm, which `zero_gamma` sets to 0."""
        return []
