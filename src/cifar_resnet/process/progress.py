"""What a person sees while the network trains: a bar with ETA on a terminal, a line per epoch everywhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

from tqdm import tqdm

from cifar_resnet import files
from cifar_resnet.training.config import TrainConfig, steps_per_epoch
from cifar_resnet.training.state import Record, TrainState


class Progress:
    """Shows the state of a run; what it runs on and the speed of each epoch go to logs/train.jsonl too."""

    def __init__(
        self, state: TrainState, config: TrainConfig, images: int, hardware: Mapping[str, Any]
    ) -> None:
        files.append_log("train", {"resumed": state.epoch > 0 or state.step > 0, **hardware})
        self.config, self.steps = config, steps_per_epoch(config, images)
        self.first = True
        self.bar = tqdm(
            total=config.epochs * self.steps, initial=self._done(state), unit="step", disable=None
        )
        self.started, self.first_step = time.monotonic(), state.step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _done(self, state: TrainState) -> int:
        return state.epoch * self.steps + state.step

    def update(self, state: TrainState, record: Record | None) -> None:
        """Show what `fit` yielded."""
        self.bar.update(self._done(state) - self.bar.n)
        if self.first:  # it compiles, and chooses algorithms
            files.append_log("train", {"first_step_seconds": time.monotonic() - self.started})
            self.started, self.first_step, self.first = time.monotonic(), state.step, False
        if record is None:
            return
        line = (
            f"epoch {record['epoch']:>{len(str(self.config.epochs))}}/{self.config.epochs}"
            f"  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.2%}"
            f"  validation loss {record['val_loss']:.4f} accuracy {record['val_accuracy']:.2%}"
        )
        log = {name: record[name] for name in ("epoch", "train_loss")}  # the loss says of which run it is
        if self.first_step < self.steps:  # else this process has trained nothing of it
            seconds = time.monotonic() - self.started
            speed = (self.steps - self.first_step) * self.config.batch_size / seconds
            line += f"  {seconds:.1f} s  {speed:,.0f} images/s"
            log |= {"seconds": seconds, "images_per_second": speed}
        self.bar.write(line)
        files.append_log("train", log)
        self.started, self.first_step = time.monotonic(), 0
