"""Resume states: whatever happens while one is written, a good one can be read."""

import errno
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet import checkpoint
from tests.conftest import FORK

STEPS: dict[str, tuple[Any, str]] = {
    "write": (Path, "open"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
    "folder fsync": (checkpoint, "_sync"),
    "unlink": (Path, "unlink"),
}


def state(number: int) -> dict[str, Any]:
    return {"epoch": number, "weights": torch.full((1000,), float(number)), "history": [{"loss": 0.1}]}


def newest(folder: Path) -> int | None:
    found, _ = checkpoint.load(folder)
    if found is None:
        return None
    assert torch.equal(found["weights"], torch.full((1000,), float(found["epoch"])))
    return int(found["epoch"])


def test_states_come_back_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) == (None, [])
    for number in range(12):
        checkpoint.save(tmp_path, state(number))
        assert newest(tmp_path) == number
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    for number in range(2):
        checkpoint.save(tmp_path, state(number))
    path = sorted(tmp_path.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-1])
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None
    assert found["epoch"] == 0
    assert damaged == [path.name]
    checkpoint.save(tmp_path, state(7))
    assert newest(tmp_path) == 7


def test_100_bit_flips_and_truncations_are_all_noticed(tmp_path: Path) -> None:
    chosen = random.Random(0)
    for trial in range(100):
        folder = tmp_path / str(trial)
        folder.mkdir()
        checkpoint.save(folder, state(1))
        checkpoint.save(folder, state(2))
        path = sorted(folder.iterdir())[-1]
        content = bytearray(path.read_bytes())
        if trial % 2:
            content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        else:
            del content[chosen.randrange(len(content)) :]
        path.write_bytes(content)
        found, damaged = checkpoint.load(folder)
        assert found is not None
        assert (found["epoch"], damaged) == (1, [path.name])


def interrupt(step: str, fault: Callable[[], None], after: bool) -> Callable[[], None]:
    """Let `fault` happen before or after a step of `save`; returns the undoing."""
    patch = pytest.MonkeyPatch()
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)

    def faulty(*arguments: Any) -> Any:
        if not after:
            fault()
        result = original(*arguments)
        if step == "write" and after:  # half of the content is on its way to the disk
            with result:
                result.write(b"half of a state")
        fault()
        return result

    patch.setattr(owner, name, faulty)
    return patch.undo


def raiser(code: int) -> Callable[[], None]:
    def fault() -> None:
        raise OSError(code, os.strerror(code))

    return fault


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_an_error_in_any_step_of_a_save_leaves_a_good_state(
    code: int, step: str, after: bool, tmp_path: Path
) -> None:
    for number in range(3):
        checkpoint.save(tmp_path, state(number))
    undo = interrupt(step, raiser(code), after)
    with pytest.raises(OSError, match=os.strerror(code)):
        checkpoint.save(tmp_path, state(3))
    undo()
    assert newest(tmp_path) in (2, 3)
    checkpoint.save(tmp_path, state(4))
    assert newest(tmp_path) == 4


def save_and_die(folder: Path, step: str, after: bool) -> None:
    interrupt(step, lambda: os.kill(os.getpid(), signal.SIGKILL), after)
    checkpoint.save(folder, state(3))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_any_step_of_a_save_leaves_a_good_state(step: str, after: bool, tmp_path: Path) -> None:
    for number in range(3):
        checkpoint.save(tmp_path, state(number))
    process = FORK.Process(target=save_and_die, args=(tmp_path, step, after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest(tmp_path) in (2, 3)
    checkpoint.save(tmp_path, state(4))
    assert newest(tmp_path) == 4


def test_a_state_saved_in_the_background_is_the_state_of_that_moment(tmp_path: Path) -> None:
    current = state(1)
    with checkpoint.Saver(tmp_path) as saver:
        for number in (2, 3):
            saver.save(current)
            current["epoch"] = number  # training goes on
            current["weights"].fill_(number)
    assert newest(tmp_path) == 2


def test_saving_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, original = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert disk.wait(30)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with checkpoint.Saver(tmp_path) as saver:
        assert saver.idle()
        saver.save(state(1))
        assert not saver.idle()
        assert newest(tmp_path) is None
        disk.set()
    assert saver.idle()
    assert newest(tmp_path) == 1


def test_an_error_in_the_background_is_told_by_the_next_save_and_at_the_end(tmp_path: Path) -> None:
    undo = interrupt("fsync", raiser(errno.ENOSPC), after=False)
    saver = checkpoint.Saver(tmp_path)
    saver.save(state(1))
    with pytest.raises(OSError, match="No space left"):
        saver.save(state(2))
    with pytest.raises(OSError, match="No space left"), saver:
        pass
    undo()


def hold_until(folder: Path, held: Event) -> None:
    with checkpoint.hold(folder):
        held.set()
        time.sleep(60)


def test_a_second_holder_is_told_who_has_it_and_a_dead_one_does_not_hold(tmp_path: Path) -> None:
    held = FORK.Event()
    process = FORK.Process(target=hold_until, args=(tmp_path / "run", held))
    process.start()
    assert held.wait(30)
    told = rf"being trained by process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(ValueError, match=told), checkpoint.hold(tmp_path / "run"):
        pass
    process.kill()
    process.join()
    with checkpoint.hold(tmp_path / "run"):
        pass


def test_a_run_key_depends_on_every_fact() -> None:
    facts = {"params": {"lr": 0.1, "epochs": 2}, "threads": 2}
    keys = {
        checkpoint.run_key(facts),
        checkpoint.run_key({**facts, "threads": 1}),
        checkpoint.run_key({**facts, "params": {"lr": 0.1, "epochs": 3}}),
    }
    assert len(keys) == 3
    assert checkpoint.run_key({"threads": 2, "params": {"epochs": 2, "lr": 0.1}}) == checkpoint.run_key(facts)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
