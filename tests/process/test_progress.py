"""What a person is told of the speed is what this process did."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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
CONFIG: Any = SimpleNamespace(epochs=5, batch_size=10)
STEPS = 8  # an epoch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The time, to be set; logs go to a folder of their own."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(files, "LOGS", tmp_path)
    return now


def finish(step: int, clock: list[float], capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """Take up epoch 3 after `step` steps, a second each; return the line and the log's entry."""
    state: Any = SimpleNamespace(epoch=2, step=step)
    with progress.Progress(state, CONFIG, STEPS * CONFIG.batch_size, {"device": "cpu"}) as shown:
        for _ in range(STEPS - step):
            clock[0] += 1
            state.step += 1
            shown.update(state, None)
        clock[0] += 1
        shown.update(state, None)  # a validation batch
        state.epoch, state.step = 3, 0
        shown.update(state, RECORD)
    log = (files.LOGS / "train.jsonl").read_text().splitlines()[-1]
    return capsys.readouterr().out.strip(), json.loads(log)


def test_the_rate_is_of_the_steps_of_this_process(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    line, log = finish(4, clock, capsys)
    assert line.endswith("  4.0 s  8 images/s"), "three steps after the first, which compiles, and validation"
    assert log == {"epoch": 3, "train_loss": 1, "seconds": 4, "images_per_second": 7.5}


def test_an_epoch_of_which_nothing_was_left_has_no_rate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    line, log = finish(STEPS, clock, capsys)
    assert line.endswith("validation loss 1.0000 accuracy 50.00%")
    assert log == {"epoch": 3, "train_loss": 1}
