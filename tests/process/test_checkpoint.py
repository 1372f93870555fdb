"""Resume states: whatever happens while one is written, a good one can be read."""

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from filelock import FileLock

from cifar_resnet.process import checkpoint
from tests.conftest import FORK

CPU = torch.device("cpu")
STEPS: dict[str, tuple[Any, str]] = {
    "write": (Path, "write_bytes"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
    "folder fsync": (os, "fsync"),
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


@pytest.mark.parametrize("damage", ["cut", "flipped bit"])
def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    for number in range(2):
        checkpoint.save(tmp_path, state(number))
    path = sorted(tmp_path.iterdir())[-1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-1]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None
    assert found["epoch"] == 0
    assert damaged == [path.name]
    checkpoint.save(tmp_path, state(7))
    assert newest(tmp_path) == 7


def is_folder(descriptor: int) -> bool:
    """Whether an open file is a folder."""
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def interrupt(step: str, fault: Callable[[], None], after: bool) -> Callable[[], None]:
    """Let `fault` happen before or after a step of `save`; returns the undoing."""
    patch = pytest.MonkeyPatch()
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)

    def faulty(first: Any, *others: Any, **named: Any) -> None:
        if name == "fsync" and is_folder(first) != (step == "folder fsync"):
            original(first)
            return
        if step == "write" and after:  # half of the content is on its way to the disk
            others = (others[0][: len(others[0]) // 2],)
        if after:
            original(first, *others, **named)
        fault()

    patch.setattr(owner, name, faulty)
    return patch.undo


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_an_error_in_any_step_of_a_save_leaves_a_good_state(step: str, after: bool, tmp_path: Path) -> None:
    for number in range(3):
        checkpoint.save(tmp_path, state(number))
    undo = interrupt(step, no_space, after)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, state(3))
    undo()
    assert not list(tmp_path.glob(".*")), "nothing of the failed save stays"
    assert newest(tmp_path) in (2, 3)
    checkpoint.save(tmp_path, state(4))
    assert newest(tmp_path) == 4


def save_and_die(folder: Path, step: str) -> None:
    interrupt(step, lambda: os.kill(os.getpid(), signal.SIGKILL), after=True)
    checkpoint.save(folder, state(3))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_any_step_of_a_save_leaves_a_good_state(step: str, tmp_path: Path) -> None:
    for number in range(3):
        checkpoint.save(tmp_path, state(number))
    process = FORK.Process(target=save_and_die, args=(tmp_path, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest(tmp_path) in (2, 3)
    with checkpoint.hold(tmp_path, {}):
        assert not list(tmp_path.glob(".*")), "what the kill left of a save does not stay"
    checkpoint.save(tmp_path, state(4))
    assert newest(tmp_path) == 4


def test_a_state_saved_in_the_background_is_the_state_of_that_moment(tmp_path: Path) -> None:
    current = state(1)
    with checkpoint.Saver(tmp_path, CPU) as saver:
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
    with checkpoint.Saver(tmp_path, CPU) as saver:
        assert saver.idle()
        saver.save(state(1))
        assert not saver.idle()
        assert newest(tmp_path) is None
        disk.set()
    assert saver.idle()
    assert newest(tmp_path) == 1


def save_and_stop(folder: Path, number: int) -> None:
    with checkpoint.Saver(folder, CPU) as saver:
        saver.save(state(number))
        raise SystemExit(143)


def test_a_save_that_fails_is_said_once_and_only_a_stop_has_to_have_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"could not save 0 MB in {tmp_path}: No space left on device"
    undo = interrupt("fsync", no_space, after=False)
    with checkpoint.Saver(tmp_path, CPU) as saver:
        for number in range(3):
            saver.save(state(number))
    assert capsys.readouterr().out.count(told) == 1
    with pytest.raises(OSError, match=told):
        save_and_stop(tmp_path, 3)
    undo()
    with pytest.raises(SystemExit):
        save_and_stop(tmp_path, 4)
    assert newest(tmp_path) == 4


def test_a_full_disk_at_the_end_does_not_cost_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undo = interrupt("fsync", no_space, after=False)
    checkpoint.finish(tmp_path / "run", "the model's MD5")
    undo()
    assert "this run is lost if DVC cannot record it" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_in_mps_the_copy_to_main_memory_is_not_made_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the CPU stand in for MPS, which aborts when two threads use it."""
    threads, original = [], torch.save

    def noting(*arguments: Any) -> None:
        threads.append(threading.current_thread())
        original(*arguments)

    monkeypatch.setattr(torch, "save", noting)
    monkeypatch.setattr(torch.cuda, "Stream", None)  # nor is a stream made on the CPU of a machine with a GPU
    for device in (torch.device("mps"), CPU):
        with checkpoint.Saver(tmp_path, device) as saver:
            saver.save(state(1))
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_on_a_gpu_the_thread_works_on_that_gpu_in_a_stream_that_waits_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorder stands in for CUDA: PyTorch's own classes need a GPU."""
    cuda, second = mock.MagicMock(), torch.device("cuda", 1)
    for name in ("Stream", "current_stream", "stream", "device"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    with checkpoint.Saver(tmp_path, second) as saver:
        saver.save(state(1))
    assert cuda.mock_calls[:7] == [
        mock.call.Stream(second),
        mock.call.current_stream(second),
        mock.call.Stream().wait_stream(cuda.current_stream()),
        mock.call.device(second),
        mock.call.device().__enter__(),
        mock.call.stream(cuda.Stream()),
        mock.call.stream().__enter__(),
    ]
    assert newest(tmp_path) == 1


def test_what_was_left_behind_is_found_but_not_what_is_held_or_has_no_state(tmp_path: Path) -> None:
    folders = [tmp_path / f"{number:016x}" for number in range(4)]
    for number, folder in enumerate(folders[:3]):
        with checkpoint.hold(folder, {"number": number}):
            checkpoint.save(folder, state(number), f"label-{number}")
            os.utime(next(folder.glob("*.pt")), (number, number))
    folders[3].mkdir()
    with checkpoint.hold(folders[1], {}):
        found = checkpoint.unfinished(tmp_path)
    assert [(run.folder, run.label, run.about["number"], run.saved) for run in found] == [
        (folders[2], "label-2", 2, 2),
        (folders[0], "label-0", 0, 0),
    ]
    assert all(run.size == sum(path.stat().st_size for path in run.folder.glob("*.pt")) for run in found)


def test_who_looks_at_a_run_does_not_keep_its_owner_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    looking = FileLock(tmp_path / "run" / "lock", thread_local=False)
    looking.acquire()
    timer = threading.Timer(0.2, looking.release, kwargs={"force": True})
    timer.start()
    with checkpoint.hold(tmp_path / "run", {}):
        assert not looking.is_locked
    timer.join()


def test_a_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    told = rf"being trained by process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    first, second = (checkpoint.hold(tmp_path / "run", {}) for _ in range(2))
    with first, pytest.raises(ValueError, match=told), second:
        pass
