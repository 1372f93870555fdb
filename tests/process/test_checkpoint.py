"""Checkpoints: whatever happens while one is written, a good one can be read."""

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet.process import checkpoint, progress, resume
from cifar_resnet.training.distributed.world import SINGLE_PROCESS
from tests.conftest import FORK
from tests.made_up import flip_a_bit
from tests.training.test_loop import config

SAVING: dict[str, tuple[Any, str]] = {
    "write": (Path, "write_bytes"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
    "folder fsync": (os, "fsync"),
    "unlink": (Path, "unlink"),
}


def at(
    patch: pytest.MonkeyPatch, step: str, fault: Callable[[], object], count: int = 1, after: bool = False
) -> None:
    """Let `fault` happen before or after a step, of a save or the loop's `yield`, from the `count`th on."""
    owner, function = (SAVING | {"yield": (progress.Progress, "update")})[step]
    original, calls = getattr(owner, function), []

    def faulty(first: Any, *others: Any, **named: Any) -> Any:
        other = function == "fsync" and stat.S_ISDIR(os.fstat(first).st_mode) != (step == "folder fsync")
        calls.extend([] if other else [first])
        if other or len(calls) < count:
            return original(first, *others, **named)
        if step == "write" and after:  # half of the content is on its way to the disk
            others = (others[0][: len(others[0]) // 2],)
        if after:
            original(first, *others, **named)
        fault()
        return None if after else original(first, *others, **named)

    patch.setattr(owner, function, faulty)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def state(number: int) -> dict[str, Any]:
    return {"epoch": number, "weights": torch.full((1000,), float(number)), "history": [{"loss": 0.1}]}


def save(folder: Path, *numbers: int) -> None:
    for number in numbers:
        checkpoint.save(folder, state(number), "label")


def newest(folder: Path) -> int | None:
    found = checkpoint.load(folder)
    if found is None:
        return None
    assert torch.equal(found["weights"], torch.full((1000,), float(found["epoch"])))
    return int(found["epoch"])


def test_states_come_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    for number in range(12):
        save(tmp_path, number)
        assert newest(tmp_path) == number
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_state_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 0, 1)
    path = sorted(tmp_path.iterdir())[-1]
    flip_a_bit(path)
    assert newest(tmp_path) == 0
    assert f"{path.name} is damaged" in capsys.readouterr().out
    save(tmp_path, 7)
    assert newest(tmp_path) == 7


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", SAVING)
def test_an_error_in_any_step_of_a_save_leaves_a_good_state(step: str, after: bool, tmp_path: Path) -> None:
    save(tmp_path, 0, 1, 2)
    with pytest.MonkeyPatch.context() as patch:
        at(patch, step, no_space, after=after)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 3)
    assert not list(tmp_path.glob(".*")), "nothing of the failed save stays"
    assert newest(tmp_path) in (2, 3)
    save(tmp_path, 4)
    assert newest(tmp_path) == 4


def save_and_die(folder: Path, step: str) -> None:
    at(pytest.MonkeyPatch(), step, lambda: os.kill(os.getpid(), signal.SIGKILL), after=True)
    save(folder, 3)


@pytest.mark.slow
@pytest.mark.parametrize("step", SAVING)
def test_a_kill_in_any_step_of_a_save_leaves_a_good_state(step: str, tmp_path: Path) -> None:
    save(tmp_path, 0, 1, 2)
    process = FORK.Process(target=save_and_die, args=(tmp_path, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest(tmp_path) in (2, 3)
    with resume.hold(tmp_path, config(), SINGLE_PROCESS):
        assert not list(tmp_path.glob(".*")), "what the kill left of a save does not stay"
    save(tmp_path, 4)
    assert newest(tmp_path) == 4


class Training:
    """What a saver needs of a training state, and the time, to be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epoch = self.step = 0
        self.now, self.write_seconds = 1000.0, 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def state_dict(self) -> dict[str, Any]:
        self.now += self.write_seconds
        return {"epoch": self.epoch, "weights": torch.full((1000,), float(self.epoch))}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Training(monkeypatch)


def test_checkpoints_are_30_seconds_apart_at_ends_of_epochs_and_five_minutes_inside_one(
    tmp_path: Path, training: Any
) -> None:
    saver = checkpoint.Saver(tmp_path)

    def due(epoch: int, step: int, seconds: float) -> bool:
        training.epoch, training.step = epoch, step
        training.now += seconds
        saver.save_if_due(training, epoch_ended=step == 0)
        return any(tmp_path.glob(f"*.{epoch}-{step}.*"))

    assert [epoch for epoch in range(1, 31) if due(epoch, 0, 3)] == [1, 12, 23]
    saver.save(training)
    assert [step for step in range(1, 1000) if due(31, step, 1)] == [301, 602, 903]


def test_saving_on_a_slow_disk_costs_two_percent_of_the_time(tmp_path: Path, training: Any) -> None:
    saver, training.write_seconds = checkpoint.Saver(tmp_path), 10.0
    start = training.now
    for number in range(1, 5001):
        training.epoch = number
        training.now += 1
        saver.save_if_due(training, epoch_ended=True)
    seconds = training.now - start
    saving = seconds - 5000
    assert 10 < saving <= 0.02 * seconds + 10


def test_a_save_that_fails_is_said_once_and_only_a_stop_has_to_have_saved(
    tmp_path: Path, training: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"could not save 0 MB in {tmp_path}: No space left on device"
    saver = checkpoint.Saver(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        at(patch, "fsync", no_space)
        for _ in range(3):
            saver.try_to_save(training)
        assert capsys.readouterr().out.count(told) == 1
        with pytest.raises(OSError, match=told):
            saver.save(training)
    training.epoch = 4
    saver.save(training)
    assert newest(tmp_path) == 4
