"""Whose failure is shown when several processes of a run fail, one because of the other."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar_resnet.errors import ParamsError, UserError
from cifar_resnet.process import command, launch

RECORDED = "error: the training loss became nan\n"
LOST = "RuntimeError: connection closed by peer\n"


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the first failure of a launcher's processes is recorded."""
    path = tmp_path / "first"
    monkeypatch.setenv(command.FIRST_FAILURE, str(path))
    return path


def test_the_first_failure_alone_is_kept(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.record(UserError("one\nline"))
    assert command.record(RuntimeError("its consequence"))
    assert first.read_text() == "error: one line\n"
    monkeypatch.delenv(command.FIRST_FAILURE)
    assert not command.record(UserError("no launcher listens"))


def test_a_bug_keeps_its_traceback_and_so_does_all_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="could not convert") as caught:
        float("broken")
    told = command.text(caught.value)
    assert told.startswith("Traceback")
    assert "in test_a_bug" in told
    assert told.endswith("could not convert string to float: 'broken'")
    assert command.text(OSError("no \x1b[31mfile\x07")) == r"error: no \x1b[31mfile\x07", "steers no terminal"
    monkeypatch.setattr("sys.argv", ["stage", "--traceback"])
    assert command.text(UserError("wrong")).endswith("UserError: wrong")


@pytest.mark.parametrize(
    ("cuda", "recorded", "ends", "outcome"),
    [
        # What was recorded first is shown. SIGKILL comes from the launcher, after SIGTERM and 30 seconds,
        (False, RECORDED, [(1, 10), (-signal.SIGTERM, 10), (-signal.SIGKILL, 41)], 1),
        # and SIGABRT from NCCL, which waits no longer for the other process.
        (True, RECORDED, [(-signal.SIGABRT, 11), (1, 10)], 1),
        # A process that could record nothing came first. Gloo aborts nothing: it is the cause.
        (False, LOST, [(-signal.SIGABRT, 10), (1, 10)], "process 0 of 2 was ended by SIGABRT, so the others"),
        (True, LOST, [(-signal.SIGABRT, 10), (-signal.SIGBUS, 10)], "process 1 of 2 was ended by SIGBUS"),
        # A hang: the process that gave up first.
        (True, "", [(-signal.SIGABRT, t) for t in (14, 10, 12)], "process 1 of 3 was ended by SIGABRT"),
        # A run that was asked to stop ends with that status and no word.
        (False, LOST, [(143, 10), (1, 10)], 143),
    ],
)
def test_what_came_first_is_shown(
    cuda: bool,
    recorded: str,
    ends: list[tuple[int, int]],
    outcome: int | str,
    first: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`ends`: what PyTorch's launcher says, the exit status of each process and when it was noticed."""
    device = torch.device("cuda" if cuda else "cpu")
    failed: Any = {rank: SimpleNamespace(exitcode=end[0], timestamp=end[1]) for rank, end in enumerate(ends)}
    if recorded:
        first.write_text(recorded)
    if isinstance(outcome, str):
        with pytest.raises(UserError, match=f"^{outcome}"):
            launch._status(failed, len(ends), device, first)
    else:
        assert launch._status(failed, len(ends), device, first) == outcome
        assert capsys.readouterr().err == (recorded if outcome == 1 else "")


def test_the_hint_to_the_last_results_follows_a_wrong_value_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("stages: {train: {outs: [{path: a}]}}")
    assert command.text(ParamsError("wrong")) == "error: wrong", "not started by DVC"
    monkeypatch.setenv("DVC_STAGE", "train")
    hint = "put the old value back and run `dvc repro`: results made here come back from DVC's cache"
    assert command.text(ParamsError("wrong")) == f"error: wrong; {hint}"
    for error in (UserError("wrong"), OSError("wrong")):  # a full disk, a held lock
        assert command.text(error) == "error: wrong"
    monkeypatch.setenv("DVC_STAGE", "evaluate")  # which has no results yet
    assert command.text(ParamsError("wrong")) == "error: wrong"
