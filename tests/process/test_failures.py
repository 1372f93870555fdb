"""Whose failure is shown when several processes of a run fail, one because of the other."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.process import failures, launch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECORDED = "error: the training loss became nan\n"


def test_the_first_failure_alone_is_kept() -> None:
    with failures.collected() as folder:
        assert failures.first(folder) is None
        assert failures.record(UserError("one\nline"))
        assert failures.record(RuntimeError("its consequence"))
        assert failures.first(folder) == "error: one line\n"
    assert failures.FOLDER not in os.environ, "the launcher's own errors are its own"


def test_a_bug_keeps_its_traceback_and_so_does_all_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError) as caught:
        fault()
    told = failures.text(caught.value)
    assert told.startswith("Traceback")
    assert "in fault" in told
    assert told.endswith("RuntimeError: broken")
    assert (
        failures.text(OSError(28, "No space left on device")) == "error: [Errno 28] No space left on device"
    )
    monkeypatch.setattr("sys.argv", ["stage", "--traceback"])
    assert failures.text(UserError("wrong")).endswith("UserError: wrong")


def failed(*ends: tuple[int, int]) -> Any:
    """What PyTorch's launcher says of processes: the exit status of each and when it was noticed."""
    return {
        rank: SimpleNamespace(exitcode=status, timestamp=time) for rank, (status, time) in enumerate(ends)
    }


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        # SIGKILL by the launcher, after SIGTERM and 30 seconds
        (CPU, [(1, 10), (-signal.SIGTERM, 10), (-signal.SIGKILL, 41)]),
        (CUDA, [(-signal.SIGABRT, 11), (1, 10)]),  # by NCCL, which waits no longer for the other
    ],
)
def test_what_was_recorded_first_is_shown(
    target: torch.device, ends: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / failures.FIRST).write_text(RECORDED)
    assert launch._report(failed(*ends), len(ends), target, tmp_path) == 1
    assert capsys.readouterr().err == RECORDED


@pytest.mark.parametrize(
    ("target", "ends", "rank", "name"),
    [
        (CPU, [(-signal.SIGABRT, 10), (1, 10)], 0, "SIGABRT"),  # Gloo aborts nothing: it is the cause
        (CUDA, [(-signal.SIGABRT, 10), (-signal.SIGBUS, 10)], 1, "SIGBUS"),
    ],
)
def test_a_process_that_could_record_nothing_came_first(
    target: torch.device, ends: list[tuple[int, int]], rank: int, name: str, tmp_path: Path
) -> None:
    (tmp_path / failures.FIRST).write_text("RuntimeError: connection closed by peer\n")
    with pytest.raises(UserError, match=rf"^process {rank} of 2 was ended by {name}, so the others stopped"):
        launch._report(failed(*ends), 2, target, tmp_path)


def test_after_a_hang_the_process_that_gave_up_first_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "attempt_0/1/stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("Watchdog caught collective operation timeout\n")
    ends = failed((-signal.SIGABRT, 14), (-signal.SIGABRT, 10), (-signal.SIGABRT, 12))
    with pytest.raises(UserError, match=r"^process 1 of 3 was ended by SIGABRT"):
        launch._report(ends, 3, CUDA, tmp_path)
    assert capsys.readouterr().err == "Watchdog caught collective operation timeout\n"


def test_a_run_that_was_asked_to_stop_ends_with_that_status_and_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / failures.FIRST).write_text("RuntimeError: connection closed by peer\n")
    assert launch._report(failed((143, 10), (1, 10)), 2, CPU, tmp_path) == 143
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("stage", "written", "said"), [("train", [], True), ("train", ["b"], False), ("other", [], False)]
)
def test_the_hint_stands_only_where_results_are_gone(
    stage: str, written: list[str], said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("stages: {train: {outs: [{path: a}, {path: b}]}}")
    for name in written:
        Path(name).touch()
    assert failures.text(UserError("wrong")) == "error: wrong", "not started by DVC"
    monkeypatch.setenv("DVC_STAGE", stage)
    assert ("DVC's cache" in failures.text(UserError("wrong"))) == said
