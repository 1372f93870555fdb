"""What a person is told of the speed is what this process did."""

import json
import os
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.process import progress

RECORD = {
    "epoch": 3,
    "train_loss": 1.0,
    "train_accuracy": 0.5,
    "val_loss": 1.0,
    "val_accuracy": 0.5,
    "lr": 0.1,
}
CONFIG: Any = SimpleNamespace(epochs=5, batch_size=10, processes=1)
STEPS = 8  # an epoch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The time, to be set; logs go to a folder of their own."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(files, "LOGS", tmp_path)
    return now


def log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (files.LOGS / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("step", "end", "logged"),
    [
        # three steps after the first, which compiles, and validation
        (4, "  4.0 s  8 images/s", {"seconds": 4, "images_per_second": 7.5}),
        (STEPS, "validation loss 1.0000 accuracy 50.00%", {}),  # nothing was left of the epoch
    ],
)
def test_the_rate_is_of_the_steps_of_this_process(
    step: int, end: str, logged: dict[str, Any], clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes up epoch 3 after `step` steps, a second each."""
    state: Any = SimpleNamespace(epoch=2, step=step)
    with progress.Progress(state, CONFIG, STEPS * CONFIG.batch_size, {"device": "cpu"}) as shown:
        for done in [*range(step, STEPS), STEPS]:  # the last is a validation batch
            clock[0] += 1
            state.step = min(done + 1, STEPS)
            shown.update(state, None)
        state.epoch, state.step = 3, 0
        shown.update(state, RECORD)
    assert capsys.readouterr().out.strip().endswith(end)
    assert log()[-2] == {**RECORD, **logged, "time": log()[-2]["time"]}


def test_without_a_terminal_a_line_a_minute_says_where_training_is(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    state: Any = SimpleNamespace(epoch=0, step=0, epoch_sums=torch.zeros(2))
    steps = 1000
    with progress.Progress(state, CONFIG, steps * CONFIG.batch_size, {}) as shown:
        for _ in range(130):
            clock[0] += 1
            state.step += 1
            state.epoch_sums[0] += 0.5
            shown.update(state, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "epoch 1/5  step 62/1000  train loss 0.5000  10 images/s  at most 1:22:18 left"
    assert "step 123/1000" in second


def test_the_bar_follows_the_width_of_the_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (40, 120))
    state: Any = SimpleNamespace(epoch=0, step=0)
    with os.fdopen(reader, "rb", 0) as screen, os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.Progress(state, CONFIG, 80, {}) as shown:
            widths = [len(screen.read(9999).decode().strip())]
            termios.tcsetwinsize(writer, (40, 50))
            shown.bar.refresh()
            widths.append(len(screen.read(9999).decode().strip()))
    assert 100 < widths[0] < 120
    assert 40 < widths[1] < 50


def test_the_log_says_how_a_process_ended(clock: list[float]) -> None:
    state: Any = SimpleNamespace(epoch=0, step=0)
    endings: list[BaseException | None] = [None, SystemExit(143), KeyError("bug")]
    for ending in endings:
        with suppress(BaseException), progress.Progress(state, CONFIG, 80, {"device": "cpu"}):
            if ending:
                raise ending
    assert [line["ended"] for line in log()[1::2]] == ["finished", "status 143", "KeyError"]
    assert all(line["resumed"] is False and line["device"] == "cpu" for line in log()[::2])
