"""A stopped run goes on as if nothing had happened: ended in many ways, compared with an unbroken one."""

import json
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.errors import UserError
from cifar_resnet.process import checkpoint, runs
from stages import train
from tests.conftest import FORK, OUTPUTS, Clone
from tests.made_up import flip_a_bit
from tests.process.conftest import Workspace
from tests.process.test_checkpoint import at, no_space


def save_every_step(patch: pytest.MonkeyPatch) -> None:
    for name in ("SAVE_SECONDS", "EPOCH_SECONDS", "TIMES"):
        patch.setattr(checkpoint, name, 0)


def die(workspace: Workspace, step: str, count: int) -> None:
    """Train until this process kills itself."""
    patch = pytest.MonkeyPatch()
    workspace.enter(patch)
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(workspace.cache / "compiled"))
    patch.setattr("sys.stdout", (workspace.folder / "log").open("w"))
    save_every_step(patch)
    at(patch, step, lambda: os.kill(os.getpid(), signal.SIGKILL), count)
    workspace.run("train")


def kill(workspace: Workspace, step: str, count: int) -> None:
    process = FORK.Process(target=die, args=(workspace, step, count))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (workspace.folder / "log").read_text()


def finish(workspace: Workspace) -> dict[str, bytes]:
    """Train to the end; return the outputs."""
    workspace.run("train")
    assert not list((workspace.cache / "resume").iterdir()), "a finished run leaves no checkpoint behind"
    return workspace.outputs()


# An epoch has ten yields: its steps, a batch of validation, its record.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "count"), [("yield", 3), ("yield", 20), ("yield", 29), ("fsync", 8), ("replace", 10)]
)
def test_killed_between_two_steps_or_while_saving(
    step: str, count: int, trained: Workspace, prepared: Workspace
) -> None:
    kill(prepared, step, count)
    assert finish(prepared) == trained.outputs()


@pytest.mark.slow
def test_the_real_stage_under_dvc_gives_the_same_bits(trained: Workspace, finished: Clone) -> None:
    """It keeps no memory and has a process of its own."""
    assert trained.outputs() == {path: finished.read(path) for path in OUTPUTS}
    logs = [(one.folder / "logs/train.jsonl").read_text() for one in (trained, finished)]
    assert ['"malloc":true' in log for log in logs] == [platform.libc_ver()[0] == "glibc", False]


def signals(*numbers: int) -> Callable[[], None]:
    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


PARAMS, CODE = Path("params.yaml"), Path("src/cifar_resnet/training/augmentation.py")
# By the first column of the table in stages/train.py: faults, the status of each and what is said.
Ending = tuple[str, Callable[[], object], int, str]
ENDINGS: dict[str, list[Ending]] = {
    "the last epoch": [],  # `finish`, and test_runs.py with DVC
    "SIGINT, SIGTERM, SIGHUP": [
        ("SIGTERM", signals(signal.SIGTERM), 128 + signal.SIGTERM, "SIGTERM: saving a checkpoint"),
        ("SIGHUP", signals(signal.SIGHUP), 128 + signal.SIGHUP, "SIGHUP: saving a checkpoint"),
        ("nobody reads", signals(signal.SIGINT), 128 + signal.SIGINT, "^130$"),
        ("no space left", signals(signal.SIGINT), 1, "error: .*could not save .* No space left on device"),
    ],
    "a second signal": [
        ("a second signal", signals(signal.SIGTERM, signal.SIGINT), 128 + signal.SIGINT, "once more stops")
    ],
    "a user's error, out of memory, loss not finite": [
        ("a user's error", failing(UserError("wrong")), 1, "^error: wrong$"),
        (
            "out of memory",
            failing(torch.OutOfMemoryError("CUDA out of memory")),
            1,
            r"^error: out of memory; lower train\.batch_size \(now 50\)$",
        ),
    ],
    "a bug": [("a bug", failing(RuntimeError("broken")), 1, "^RuntimeError: broken$")],
    "SIGKILL, power cut": [],  # above
    "params.yaml or code edited meanwhile": [
        (
            "params.yaml edited",
            partial(edit, PARAMS, "epochs: 3", "epochs: 4"),
            1,
            "^error: params.yaml's train section was changed while training ran",
        ),
        (
            "code edited",
            partial(edit, CODE, "import torch\n", "import torch  # edited\n"),
            1,
            "^error: .* code .* was changed while training ran, so the result is not of what is there now",
        ),
    ],
}


def test_every_row_of_the_stages_table_is_tried() -> None:
    rows = re.findall(r"^\| (.+?) \|", str(train.__doc__), re.MULTILINE)
    assert rows == ["ending", *ENDINGS]


@pytest.mark.parametrize(
    ("kind", "fault", "status", "said"),
    [pytest.param(*end, id=end[0]) for row in ENDINGS.values() for end in row],
)
def test_a_run_ends_as_the_stages_table_says_and_goes_on(
    kind: str,
    fault: Callable[[], object],
    status: int,
    said: str,
    trained: Workspace,
    prepared: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in (PARAMS, CODE)}
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at(patch, "yield", fault, 14)
        if kind == "no space left":
            at(patch, "yield", lambda: patch.setattr(files, "write_bytes", no_space), 14)
        if kind == "nobody reads":  # Ctrl-C ends `| tee` first
            for name, count in (("stdout", 9), ("stderr", 13)):
                reading, writing = os.pipe()
                os.close(reading)
                pipe = open(writing, "w", buffering=1, closefd=False)  # noqa: SIM115
                at(patch, "yield", partial(patch.setattr, sys, name, pipe), count)
        if status == 1 and kind != "no space left":
            save_every_step(patch)
        hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup make test` ignores
        try:
            ended = prepared.run("train", status)
        except RuntimeError as bug:
            ended = f"{type(bug).__name__}: {bug}"
        finally:
            signal.signal(signal.SIGHUP, hangup)
    printed = "\n".join([*capsys.readouterr(), ended])
    assert re.search(said, printed, re.MULTILINE)
    assert printed.count("changed while training runs: put it back") == ("edited" in kind), "once"
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list(Path("models").glob("*"))
    assert len(files.read_table("history")) >= 1, "what `dvc plots show` draws meanwhile"
    for path, content in before.items():
        path.write_bytes(content)
    assert finish(prepared) == trained.outputs()
    length = dict.fromkeys(("params.yaml edited", "code edited"), "3 epochs and 0")
    length |= dict.fromkeys(("no space left", "a second signal"), "1 epochs and 0")
    resumed = f"resuming this run after {length.get(kind, '1 epochs and [1-9]')} steps"
    assert re.search(resumed, capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_goes_on_in_another_clone_with_a_moved_cache_folder_and_a_damaged_state(
    trained: Workspace, prepared: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Workspace(tmp_path / "first")
    shutil.copytree(prepared.folder / "data", first.folder / "data")
    kill(first, "folder fsync", 5)
    first.cache.rename(prepared.cache)
    newest = sorted((prepared.cache / "resume").glob("*/[0-9]*.pt"))[-1]
    flip_a_bit(newest)
    assert finish(prepared) == trained.outputs()
    printed = capsys.readouterr().out
    assert f"the checkpoint {newest.name} is damaged" in printed
    assert "resuming this run after" in printed


@pytest.mark.slow
def test_a_compiled_run_goes_on_with_kept_code_as_an_unbroken_one_with_new_code(
    trained: Workspace, prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.change({"train": {"compile": True}})
    unbroken = shutil.copytree(prepared.folder, tmp_path / "unbroken")
    kill(prepared, "yield", 14)
    assert list((prepared.cache / "compiled").iterdir()), "the code is kept"
    for folder, cache in ((prepared.folder, prepared.cache), (unbroken, tmp_path / "new")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))
        monkeypatch.chdir(folder)
        prepared.run("train")
    assert prepared.outputs() == {path: (unbroken / path).read_bytes() for path in OUTPUTS}
    assert prepared.outputs() != trained.outputs(), "it was compiled"


def long(finished: Clone, folder: Path) -> Clone:
    """A clone whose data are made already, with a run before it that is long enough to stop."""
    clone = finished.copy(folder)
    clone.cache = folder / "cache"
    clone.change({"train": {"epochs": 15, "patience": 15}})
    return clone


def test_killed_dvc_leaves_a_trainer_that_the_next_repro_finds(finished: Clone, tmp_path: Path) -> None:
    """DVC does not stop its stage when it is killed itself."""
    clone, command = long(finished, tmp_path), ("dvc", "repro", "train")
    dvc = clone.start(*command)
    trainer = json.loads((clone.saved(dvc) / runs.RUN).read_text())["pid"]
    os.kill(trainer, signal.SIGSTOP)  # or it might end before the next command looks
    try:
        dvc.kill()
        dvc.wait()
        assert f"the same run is being trained by process {trainer} on" in clone.run(*command, status=255)
    finally:
        os.kill(trainer, signal.SIGTERM)
        os.kill(trainer, signal.SIGCONT)
    dvc.communicate(timeout=60)  # until the trainer has ended, which holds the pipe too
    assert "resuming this run after" in clone.run(*command)
    assert json.loads(clone.read("metrics/train.json"))["epochs"] >= 10


def test_interrupted_experiment_in_a_temporary_folder_goes_on(finished: Clone, tmp_path: Path) -> None:
    """Ctrl-C reaches DVC and the stage; the next `dvc exp run --temp` starts in another folder."""
    clone, command = long(finished, tmp_path), ("dvc", "exp", "run", "--temp", "--name", "kept", "train")
    experiment = clone.start(*command)
    clone.saved(experiment)
    os.killpg(experiment.pid, signal.SIGINT)
    printed, _ = experiment.communicate()
    assert experiment.returncode != 0, printed
    assert "resuming this run after" in clone.run(*command)
    assert "kept" in clone.dvc("exp", "list", "--name-only")
