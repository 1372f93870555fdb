"""The training loop, as a generator: the caller saves, logs and draws; the loop computes."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from cifar_resnet.augmentation import AugmentationConfig, Draws, augment, draw
from cifar_resnet.average import update_average
from cifar_resnet.dataset import Images
from cifar_resnet.device import Compile, Device, Precision
from cifar_resnet.inference import Normalization, NormalizationConfig, build_normalization, forward, predict
from cifar_resnet.mixing import Mixing, MixingConfig, draw_mixing, mix, mixed_cross_entropy
from cifar_resnet.model import ModelConfig, ResNet, build_model
from cifar_resnet.optimizer import OptimizerConfig, build_optimizer
from cifar_resnet.randomness import generator
from cifar_resnet.schedule import ScheduleConfig, lr_factor

Record = dict[str, float]  # one row of the history
VAL_BATCH = 4  # validation batches, in training batches: without a backward pass, four fit where one did


class TrainConfig(BaseModel):
    """The hyperparameters of a run. `patience`: epochs without a better validation accuracy.

    `label_smoothing`: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, section 7. `ema_decay`: of the
    moving average of the weights and of the batch norms' statistics, which is then validated and kept
    instead of them; 0 is none. `all_images`: train on the validation images too and keep the last epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int = Field(ge=1)
    device: Device
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


def train_loss(
    model: ResNet,
    batch: Images,
    draws: Draws,
    mixing: Mixing | None,
    config: TrainConfig,
    normalization: Normalization,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch, and that with the count of correct predictions: (2,) float32."""
    images, smoothing = augment(batch.images, draws, config.augmentation.padding), config.label_smoothing
    if mixing is None:
        logits = forward(model, images, normalization, dtype)
        loss = cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    else:
        logits = forward(model, mix(images, mixing), normalization, dtype)
        loss = mixed_cross_entropy(logits, batch.labels, mixing.share, smoothing)
    return loss, torch.stack([loss.detach(), (logits.argmax(1) == batch.labels).sum()])


def fit(
    state: TrainState,
    config: TrainConfig,
    train: Images,
    val: Images,
    dtype: torch.dtype,
    compiled: bool = False,
) -> Iterator[tuple[TrainState, Record | None]]:
    """Train until `stop_reason`, updating `state` in place.

    Yields after every step (record None) and after every epoch (its record). Between two steps nothing
    waits for the device. At every yield `state` can be saved, and a run that goes on from it ends in the
    same bits, since an epoch's draws depend on the seed and its number alone.

    `train` and `val` lie on the model's device. `dtype`: what convolutions and matrix products compute in.
    `compiled`: whether `torch.compile` makes the code of the step (but the optimizer's) and of validation.
    Raises ValueError when the loss becomes NaN or infinite.
    """
    device = state.totals.device
    normalization = build_normalization(config.normalization, device)
    step_loss = torch.compile(train_loss, fullgraph=True, dynamic=False) if compiled else train_loss
    val_forward = torch.compile(forward, fullgraph=True, dynamic=False) if compiled else forward
    train, val = train.channels_last(), val.channels_last()
    evaluated = state.average or state.model
    count, size = len(train.labels), train.images.shape[-1]
    steps = steps_per_epoch(config, count)
    while stop_reason(state, config) is None:
        shuffle = generator(config.seed, "shuffle", state.epoch)
        order = torch.randperm(count, generator=shuffle).to(device)
        augmentation = generator(config.seed, "augmentation", state.epoch)
        draws = draw(config.augmentation, count, size, augmentation).to(device)
        mixing = None
        if config.mixing.cutmix or config.mixing.mixup:
            plain = state.epoch >= config.epochs - config.mixing.plain_epochs
            mixing = draw_mixing(
                config.mixing, count, size, plain, generator(config.seed, "mixing", state.epoch)
            ).to(device)
        state.model.train()
        for step in range(state.step, steps):
            batch = slice(step * config.batch_size, (step + 1) * config.batch_size)
            done = state.epoch * steps + step
            for group in state.optimizer.param_groups:
                group["lr"] = config.optimizer.lr * lr_factor(config.schedule, done, config.epochs * steps)
            images, mixed = train.rows(order[batch]), mixing and mixing.rows(batch)
            loss, totals = step_loss(
                state.model, images, draws.rows(batch), mixed, config, normalization, dtype
            )
            loss.backward()
            state.optimizer.step()
            if state.average:
                update_average(state.average, state.model, config.ema_decay, done)
            state.optimizer.zero_grad()
            state.totals += totals
            state.step = step + 1
            yield state, None
        state.check_loss()
        val_totals = torch.zeros(2, device=device)
        batches = [tensor.split(VAL_BATCH * config.batch_size) for tensor in val]
        predictions = predict(evaluated, batches[0], normalization, dtype, val_forward)
        for logits, labels in zip(predictions, batches[1], strict=True):
            loss = cross_entropy(logits, labels, reduction="sum")
            val_totals += torch.stack([loss, (logits.argmax(1) == labels).sum()])
            yield state, None
        record = {
            "epoch": state.epoch + 1,
            "train_loss": state.totals[0].item() / steps,
            "train_accuracy": state.totals[1].item() / (steps * config.batch_size),
            "val_loss": val_totals[0].item() / len(val.labels),
            "val_accuracy": val_totals[1].item() / len(val.labels),
            "lr": state.optimizer.param_groups[0]["lr"],
        }
        state.history.append(record)
        if state.kept(config) is record:
            state.best_weights = copy.deepcopy(evaluated.state_dict())
        state.epoch, state.step = state.epoch + 1, 0
        state.totals.zero_()
        yield state, record
