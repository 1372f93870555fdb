"""The training loop, as a generator: the caller saves, logs and draws; the loop computes."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar_resnet.errors import UserError
from cifar_resnet.images import Images
from cifar_resnet.network.base import Network
from cifar_resnet.network.inference import Normalization, build_normalization, forward, predict
from cifar_resnet.randomness import generator, global_state
from cifar_resnet.training.augmentation import AugmentationParams, augment, sample
from cifar_resnet.training.config import TrainConfig, steps_per_epoch
from cifar_resnet.training.distributed.world import SINGLE_PROCESS, World, wrap_ddp
from cifar_resnet.training.ema import update_ema
from cifar_resnet.training.mixing import MixParams, mix, mixed_cross_entropy, sample_mixing
from cifar_resnet.training.schedule import lr_factor
from cifar_resnet.training.state import EpochMetrics, TrainState, stop_reason

VAL_BATCH = 4  # validation batches, in training batches: without a backward pass, four fit where one did


class StepLoss(nn.Module):
    """What a step computes before the backward pass: the loss of a batch of images as they are stored."""

    def __init__(
        self, model: Network, config: TrainConfig, normalization: Normalization, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.model, self.config, self.normalization, self.dtype = model, config, normalization, dtype

    def forward(
        self, batch: Images, draws: AugmentationParams, mixing: MixParams | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss, and that with the count of correct predictions: (2,) float32.

        With `mixing`, `batch` and `draws` have one image more, in front.
        """
        images, labels = augment(batch.images, draws, self.config.augmentation.padding), batch.labels
        smoothing = self.config.label_smoothing
        if mixing is None:
            logits = forward(self.model, images, self.normalization, self.dtype)
            loss = cross_entropy(logits, labels, label_smoothing=smoothing)
        else:
            logits = forward(self.model, mix(images, mixing), self.normalization, self.dtype)
            loss, labels = mixed_cross_entropy(logits, labels, mixing.lam, smoothing), labels[1:]
        return loss, torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])


def epoch_plan(
    config: TrainConfig, epoch: int, images: Tensor, world: World
) -> tuple[Tensor, AugmentationParams, MixParams | None]:
    """Return which of `images` each step of an epoch takes and how they are augmented and mixed.

    `images`: (N, 3, S, S). The result lies on their device and has the shape (steps, batch_size / processes,
    ...): every process draws for all images and keeps its share.
    """
    count, size, device = len(images), images.shape[-1], images.device
    order = torch.randperm(count, generator=generator(config.seed, "shuffle", epoch))
    draws = sample(config.augmentation, count, size, generator(config.seed, "augmentation", epoch))
    steps, mixing = steps_per_epoch(config, count), None
    mixed = bool(config.mixing.cutmix or config.mixing.mixup)
    if mixed:
        plain = epoch >= config.epochs - config.mixing.plain_epochs
        drawn = sample_mixing(config.mixing, count, size, plain, generator(config.seed, "mixing", epoch))
        mixing = drawn.select(world.shard_indices(steps, config.batch_size)).to(device)
    share = world.shard_indices(steps, config.batch_size, before=mixed)
    return order[share].to(device), draws.select(share).to(device), mixing


def fit(
    state: TrainState,
    config: TrainConfig,
    train: Images,
    val: Images,
    dtype: torch.dtype,
    compiled: bool = False,
    world: World = SINGLE_PROCESS,
) -> Iterator[tuple[TrainState, EpochMetrics | None]]:
    """Train until `stop_reason`, updating `state` in place.

    Yields after every step (record None) and after every epoch (its record). Between two steps nothing
    waits for the device. At every yield `state` can be saved, and a run that goes on from it ends in the
    same bits, since an epoch's draws depend on the seed and its number alone.

    `train` and `val` lie on the model's device. `dtype`: what convolutions and matrix products compute in.
    `compiled`: whether `torch.compile` makes the code of the step (but the optimizer's) and of validation.
    `world`: the processes that train together; each calls this with the same state and images, yields as
    often and has the same state at every yield.
    Raises UserError when the loss becomes NaN or infinite, or when the network draws random numbers.
    """
    device = state.epoch_sums.device
    normalization = build_normalization(config.normalization, device)
    train, val = train.channels_last(), val.channels_last()
    steps = steps_per_epoch(config, len(train.labels))
    train_loss: nn.Module = StepLoss(state.model, config, normalization, dtype)
    val_forward = torch.compile(forward, fullgraph=True, dynamic=False) if compiled else forward
    evaluated, warm = state.ema or state.model, False
    state.model.train()
    if compiled:
        train_loss.compile(fullgraph=True, dynamic=False)
    if world.size > 1:
        order, draws, mixing = epoch_plan(config, 0, train.images, world)
        images, mixed = train.select(order[0]), mixing and mixing.select(0)
        train_loss = wrap_ddp(train_loss, images, draws.select(0), mixed)
    while stop_reason(state, config) is None:
        order, draws, mixing = epoch_plan(config, state.epoch, train.images, world)
        state.model.train()
        for step in range(state.step, steps):
            done = state.epoch * steps + step
            for group in state.optimizer.param_groups:
                group["lr"] = config.optimizer.lr * lr_factor(config.schedule, done, config.epochs * steps)
            images, mixed = train.select(order[step]), mixing and mixing.select(step)
            before = global_state()
            loss, totals = train_loss(images, draws.select(step), mixed)
            if warm and not before.equal(global_state()):
                raise UserError(
                    f"{state.model.name} draws from PyTorch's global generator (dropout?), so a resumed run"
                    " would differ; draw from `randomness.generator(seed, purpose, step)` in the loop instead"
                )
            warm = True  # the first step of a process may compile
            state.scaler.scale(loss).backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            if state.ema:
                update_ema(state.ema, state.model, config.ema_decay, done)
            state.optimizer.zero_grad()
            state.epoch_sums += world.all_reduce_sum(totals)
            state.step = step + 1
            yield state, None
        state.check_loss()
        val_totals = torch.zeros(2, device=device)
        batches = [map(world.shard, tensor.split(VAL_BATCH * config.batch_size)) for tensor in val]
        predictions = predict(evaluated, batches[0], normalization, dtype, val_forward)
        for logits, labels in zip(predictions, batches[1], strict=True):
            loss = cross_entropy(logits, labels, reduction="sum")
            val_totals += torch.stack([loss, (logits.argmax(1) == labels).sum()])
            yield state, None
        world.all_reduce_sum(val_totals)
        record = {
            "epoch": state.epoch + 1,
            "train_loss": state.epoch_sums[0].item() / (steps * world.size),
            "train_accuracy": state.epoch_sums[1].item() / (steps * config.batch_size),
            "val_loss": val_totals[0].item() / len(val.labels),
            "val_accuracy": val_totals[1].item() / len(val.labels),
            "lr": state.optimizer.param_groups[0]["lr"],
        }
        state.history.append(record)
        if state.best_record(config) is record:
            state.best_weights = copy.deepcopy(evaluated.state_dict())
        state.epoch, state.step = state.epoch + 1, 0
        state.epoch_sums.zero_()
        yield state, record
