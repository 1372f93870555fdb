"""The training loop, as a generator: the caller saves, logs and draws; the loop computes."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cifar_resnet.augmentation import Draws, augment, draw
from cifar_resnet.average import update_average
from cifar_resnet.dataset import Images
from cifar_resnet.inference import Normalization, build_normalization, forward, predict
from cifar_resnet.mixing import Mixing, draw_mixing, mix, mixed_cross_entropy
from cifar_resnet.model import ResNet
from cifar_resnet.randomness import generator
from cifar_resnet.run import Record, TrainConfig, TrainState, steps_per_epoch, stop_reason
from cifar_resnet.schedule import lr_factor

VAL_BATCH = 4  # validation batches, in training batches: without a backward pass, four fit where one did


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
