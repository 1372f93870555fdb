"""What a training run is: its hyperparameters, its state, when it ends and what it came to."""

import copy
import math
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.optim import AdamW

from cifar_resnet.augmentation import AugmentationConfig
from cifar_resnet.device import Compile, Device, Precision
from cifar_resnet.global_batch_norm import synchronize
from cifar_resnet.inference import NormalizationConfig
from cifar_resnet.mixing import MixingConfig
from cifar_resnet.model import ModelConfig, ResNet, build_model
from cifar_resnet.optimizer import OptimizerConfig, build_optimizer
from cifar_resnet.randomness import generator
from cifar_resnet.schedule import ScheduleConfig

Record = dict[str, float]  # one row of the history


class TrainConfig(BaseModel):
    """The hyperparameters of a run. `patience`: epochs without a better validation accuracy.

    `processes`: how many share each batch. `label_smoothing`: Szegedy et al. 2015,
    https://arxiv.org/abs/1512.00567, section 7. `ema_decay`: of the moving average of the weights and of the
    batch norms' statistics, which is then validated and kept instead of them; 0 is none. `all_images`: train
    on the validation images too and keep the last epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int = Field(ge=1)
    device: Device
    processes: int = Field(ge=1)
    precision: Precision
    deterministic: bool
    compile: Compile
    all_images: bool
    zero_gamma: bool
    label_smoothing: float = Field(ge=0, lt=1)
    ema_decay: float = Field(ge=0, lt=1)
    model: ModelConfig
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig
    mixing: MixingConfig
    normalization: NormalizationConfig

    @model_validator(mode="after")
    def _equal_shares(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of processes {self.processes}")
        return self


@dataclass
class TrainState:
    """All that changes while training; saved and restored, it makes a stopped run equal an unbroken one."""

    model: ResNet
    optimizer: AdamW
    average: ResNet | None
    totals: Tensor  # (2,) float32: this epoch's sum of batch losses and count of correct predictions
    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished in this epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)

    def kept(self, config: TrainConfig) -> Record:
        """Return the epoch with the highest validation accuracy, the first of equals; or the last one."""
        return self.history[-1] if config.all_images else max(self.history, key=itemgetter("val_accuracy"))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain containers. Raises ValueError when the loss is not finite."""
        self.check_loss()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and self.average.state_dict(),
            "totals": self.totals,
            "epoch": self.epoch,
            "step": self.step,
            "best_weights": self.best_weights,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.totals.copy_(state["totals"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_weights, self.history = state["best_weights"], state["history"]

    def check_loss(self) -> None:
        """Raise ValueError when the training loss has become NaN or infinite."""
        loss = self.totals[0].item()
        if not math.isfinite(loss):
            raise ValueError(
                f"the training loss became {loss} in epoch {self.epoch + 1}, at or before step {self.step};"
                f" lower train.optimizer.lr (now {self.optimizer.param_groups[0]['lr']:g})"
            )


def new_state(config: TrainConfig, classes: int, device: torch.device) -> TrainState:
    """Return the state before the first step."""
    initialization = generator(config.seed, "initialization")
    model = build_model(config.model, classes, initialization, config.zero_gamma).to(device)
    if config.processes > 1:
        synchronize(model)
    optimizer = build_optimizer(model, config.optimizer)
    average = copy.deepcopy(model) if config.ema_decay else None
    return TrainState(model, optimizer, average, totals=torch.zeros(2, device=device))


def steps_per_epoch(config: TrainConfig, count: int) -> int:
    """Return how many full batches `count` images make; an epoch leaves the incomplete last one out."""
    if config.batch_size > count:
        raise ValueError(f"train.batch_size {config.batch_size} must be at most the {count} training images")
    return count // config.batch_size


def stop_reason(state: TrainState, config: TrainConfig) -> str | None:
    """Return why training is over, or None while it is not."""
    if state.epoch >= config.epochs:
        return "epoch budget spent"
    if state.history and state.epoch - state.kept(config)["epoch"] >= config.patience:
        return f"no better validation accuracy in {config.patience} epochs"
    return None


def summary(state: TrainState, config: TrainConfig) -> dict[str, Any]:
    """Return what a finished run came to: the kept epoch with its losses and accuracies, and why it ended."""
    kept = {name: value for name, value in state.kept(config).items() if name not in ("epoch", "lr")}
    end = {"epochs": state.epoch, "stopped": stop_reason(state, config)}
    return {"best_epoch": state.kept(config)["epoch"]} | kept | end
