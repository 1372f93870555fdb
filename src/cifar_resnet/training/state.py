"""The state of a training run: what is saved and restored, when it ends and what it came to."""

import copy
import math
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from cifar_resnet.errors import UserError
from cifar_resnet.network.base import Network
from cifar_resnet.network.model import build_model
from cifar_resnet.randomness import generator
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.distributed.batch_norm import convert_batch_norm
from cifar_resnet.training.optimizer import build_optimizer

EpochMetrics = dict[str, float]  # one row of the history


@dataclass
class TrainState:
    """All that changes while training; saved and restored, it makes a stopped run equal an unbroken one."""

    model: Network
    optimizer: Optimizer
    ema: Network | None
    scaler: GradScaler  # of float16 gradients; in other precisions it does nothing
    epoch_sums: Tensor  # (2,) float32: this epoch's sum of batch losses and count of correct predictions
    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished in this epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[EpochMetrics] = field(default_factory=list)

    def best_record(self, config: TrainConfig) -> EpochMetrics:
        """Return the epoch with the highest validation accuracy, the first of equals; or the last one."""
        return self.history[-1] if config.all_images else max(self.history, key=itemgetter("val_accuracy"))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain containers. Raises UserError when the loss is not finite."""
        self.check_loss()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch_sums": self.epoch_sums,
            "epoch": self.epoch,
            "step": self.step,
            "best_weights": self.best_weights,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.epoch_sums.copy_(state["epoch_sums"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_weights, self.history = state["best_weights"], state["history"]

    def check_loss(self) -> None:
        """Raise UserError when the training loss has become NaN or infinite."""
        loss = self.epoch_sums[0].item()
        if not math.isfinite(loss):
            raise UserError(
                f"the training loss became {loss} in epoch {self.epoch + 1}, at or before step {self.step};"
                f" lower train.optimizer.lr (now {self.optimizer.param_groups[0]['lr']:g})"
            )


def new_state(
    config: TrainConfig, classes: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> TrainState:
    """Return the state before the first step.

    `dtype`: what convolutions and matrix products compute in. Gradients in float16 are scaled up, or small
    ones would become 0: Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2.
    """
    initialization = generator(config.seed, "initialization")
    model = build_model(config.model, classes, initialization, config.zero_gamma).to(device)
    if config.processes > 1:
        convert_batch_norm(model)
    optimizer = build_optimizer(model, config.optimizer)
    average = copy.deepcopy(model) if config.ema_decay else None
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    return TrainState(model, optimizer, average, scaler, epoch_sums=torch.zeros(2, device=device))


def stop_reason(state: TrainState, config: TrainConfig) -> str | None:
    """Return why training is over, or None while it is not."""
    if state.epoch >= config.epochs:
        return "epoch budget spent"
    if state.history and state.epoch - state.best_record(config)["epoch"] >= config.patience:
        return f"no better validation accuracy in {config.patience} epochs"
    return None


def summary(state: TrainState, config: TrainConfig) -> dict[str, Any]:
    """Return what a finished run came to: the kept epoch with its losses and accuracies, and why it ended."""
    kept = {name: value for name, value in state.best_record(config).items() if name not in ("epoch", "lr")}
    end = {"epochs": state.epoch, "stopped": stop_reason(state, config)}
    return {"best_epoch": state.best_record(config)["epoch"]} | kept | end
