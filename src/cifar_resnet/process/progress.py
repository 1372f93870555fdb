"""What a person sees while the network trains, and the log of it, logs/train.jsonl.

On a terminal that is a bar with the time left, elsewhere a line a minute; everywhere a line per epoch. Each
process adds to the log: a line with the facts of its start, one per epoch, and one that says how it ended.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from cifar_resnet import files
from cifar_resnet.process import command
from cifar_resnet.training.config import TrainConfig, steps_per_epoch
from cifar_resnet.training.state import EpochMetrics, TrainState

LINE_SECONDS = 60  # between lines without a terminal


class Progress:
    """Shows the state of a run. `images`: of the training data; `facts`: of the run, for the log."""

    def __init__(self, state: TrainState, config: TrainConfig, images: int, facts: Mapping[str, Any]) -> None:
        self.config, self.steps = config, steps_per_epoch(config, images)
        self._log({"resumed": state.epoch > 0 or state.step > 0, **facts})
        self.total = config.epochs * self.steps
        initial = self._done(state)
        self.bar = tqdm(total=self.total, initial=initial, unit="step", disable=None, dynamic_ncols=True)
        self.first = True
        self._start(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.bar.close()
        status = f"status {error}" if kind is SystemExit else kind.__name__ if kind else "finished"
        self._log({"ended": status})

    def update(self, state: TrainState, record: EpochMetrics | None) -> None:
        """Show what `fit` yielded."""
        self.bar.update(self._done(state) - self.bar.n)
        now = time.monotonic()
        if self.first:  # it compiles, and chooses algorithms: not part of a rate
            self.first = False
            self._start(state)
        elif record:
            self._show_epoch(record, now - self.started)
            self._start(state)
        elif self.bar.disable and now > self.shown[0] + LINE_SECONDS:
            self._show_step(state, now)

    def _start(self, state: TrainState) -> None:
        """Begin to measure an epoch, or what is left of it."""
        self.started, self.first_step = time.monotonic(), state.step
        self.shown = self.started, self._done(state)

    def _done(self, state: TrainState) -> int:
        return state.epoch * self.steps + state.step

    def _log(self, record: Mapping[str, Any]) -> None:
        files.append_log("train", {"time": time.time(), **record})

    def _show_epoch(self, record: EpochMetrics, seconds: float) -> None:
        line = (
            f"epoch {record['epoch']:>{len(str(self.config.epochs))}}/{self.config.epochs}"
            f"  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.2%}"
            f"  validation loss {record['val_loss']:.4f} accuracy {record['val_accuracy']:.2%}"
        )
        log: dict[str, Any] = dict(record)
        if self.first_step < self.steps:  # else this process has trained nothing of it
            speed = (self.steps - self.first_step) * self.config.batch_size / seconds
            line += f"  {seconds:.1f} s  {speed:,.0f} images/s"
            log |= {"seconds": seconds, "images_per_second": speed}
        with command.unread():
            self.bar.write(line)
        self._log(log)

    def _show_step(self, state: TrainState, now: float) -> None:
        """Print a line between two epochs: once a minute the loss may be waited for."""
        before, done_before = self.shown
        done = self._done(state)
        rate = (done - done_before) / (now - before)  # steps per second
        self.shown = now, done
        if not rate:  # validation
            return
        loss = state.epoch_sums[0].item() / (state.step * self.config.processes)
        line = (
            f"epoch {state.epoch + 1}/{self.config.epochs}  step {state.step}/{self.steps}"
            f"  train loss {loss:.4f}  {rate * self.config.batch_size:,.0f} images/s"
            f"  at most {tqdm.format_interval((self.total - done) / rate)} left"
        )
        with command.unread():
            print(line)
