"""What every network tells of itself: to the model card, to Grad-CAM, to its initialization."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A network from (N, 3, H, W) float32 images to (N, classes) logits.

    A subclass is made with its section of params.yaml and the number of classes. It takes images of any size,
    and it draws no random numbers: `model.build_model` sets all weights.
    """

    def __init__(self, config: Any, classes: int) -> None:  # noqa: ARG002 -- what a subclass takes
        super().__init__()

    @property
    @abstractmethod
    def name(self) -> str:
        """What the model card calls it."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One or two sentences for the model card."""

    @property
    @abstractmethod
    def last_block(self) -> nn.Module:
        """The module whose (N, C, h, w) output is pooled for the logits: what Grad-CAM looks at."""

    @property
    def last_gammas(self) -> list[Tensor]:
        """The weights of each block's last batch norm, which `zero_gamma` sets to 0."""
        return []

    @property
    def torchvision(self) -> str | None:
        """The function in torchvision.models that makes a network with the same names and shapes of weights.

        None: there is none.
        """
        return None
