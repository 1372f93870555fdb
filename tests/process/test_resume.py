"""A stopped run goes on as if nothing had happened: killed in many ways, compared with an unbroken one."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from tests.conftest import FORK, Clone
from tests.process.test_checkpoint import STEPS, is_folder

pytestmark = pytest.mark.slow
OUTPUTS = ("models/resnet50.safetensors", "metrics/train.json", "plots/history.csv")


def train(folder: Path, cache: Path, at: tuple[str, int] | None, number: int, save_every_step: bool) -> None:
    """The train stage in `folder`.

    `at`: the step, of a save or the loop's `yield`, and how often it has come when the signal `number` comes.
    """
    import torch

    from cifar_resnet.process import command, progress, resume
    from stages import train as stage

    os.chdir(folder)
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    files.CACHE = cache
    if save_every_step:
        resume.SAVE_SECONDS = resume.EPOCH_SECONDS = 0
    if at:
        step, last = at
        owner, function = (STEPS | {"yield": (progress.Progress, "update")})[step]
        original, calls = getattr(owner, function), []

        def signalled(first: Any, *others: object) -> object:
            if function != "fsync" or is_folder(first) == (step == "folder fsync"):
                calls.append(first)
                if len(calls) == last:
                    os.kill(os.getpid(), number)
            return original(first, *others)

        setattr(owner, function, signalled)
    sys.argv = ["stage"]
    command.run(stage.main, None)


class Run:
    """A folder to train in, with the finished clone's tensors."""

    def __init__(self, source: Clone, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        folder.mkdir()
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(source.folder / name, folder)
        for name in ("data", "src", "stages"):
            (folder / name).symlink_to(source.folder / name)

    def start(
        self,
        at: tuple[str, int] | None = None,
        number: int = signal.SIGKILL,
        save_every_step: bool = True,
    ) -> int | None:
        """Train to the end or a signal; return the status of the process."""
        process = FORK.Process(target=train, args=(self.folder, self.cache, at, number, save_every_step))
        process.start()
        process.join()
        return process.exitcode

    def finish(self) -> dict[str, bytes]:
        """Train to the end; return the outputs."""
        assert self.start(save_every_step=False) == 0, self.log
        assert not list((self.cache / "resume").iterdir()), "a finished run leaves no state behind"
        return {path: (self.folder / path).read_bytes() for path in OUTPUTS}

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def run(finished: Clone, tmp_path: Path) -> Run:
    return Run(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def unbroken(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of a run that nothing stopped."""
    outputs = Run(finished, tmp_path_factory.mktemp("unbroken") / "run").finish()
    assert outputs == {path: finished.read(path) for path in OUTPUTS}, "the harness changes nothing"
    return outputs


# An epoch has ten yields: its steps, a batch of validation, its record.
@pytest.mark.parametrize(("moment", "save_every_step"), [(3, True), (9, True), (11, False), (27, False)])
def test_killed_between_two_steps(
    moment: int, save_every_step: bool, unbroken: dict[str, bytes], run: Run
) -> None:
    assert run.start(("yield", moment), save_every_step=save_every_step) == -signal.SIGKILL
    assert run.finish() == unbroken


@pytest.mark.parametrize("step", [("fsync", 8), ("replace", 10), ("folder fsync", 3)])
def test_killed_while_saving(step: tuple[str, int], unbroken: dict[str, bytes], run: Run) -> None:
    assert run.start(step) == -signal.SIGKILL
    assert run.finish() == unbroken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(number: signal.Signals, unbroken: dict[str, bytes], run: Run) -> None:
    assert run.start(("yield", 14), number, save_every_step=False) == 128 + number, run.log
    assert f"{number.name}: saving the state and stopping" in run.log
    assert run.finish() == unbroken
    assert re.search(r"resuming this run after 1 epochs? and \d+ steps", run.log)


def test_a_run_goes_on_in_another_clone_with_a_moved_cache_folder_and_a_damaged_state(
    unbroken: dict[str, bytes], run: Run, finished: Clone, tmp_path: Path
) -> None:
    other = Run(finished, tmp_path / "other")
    run.start(("folder fsync", 5))
    run.cache.rename(other.cache)
    newest = sorted((other.cache / "resume").glob("*/[0-9]*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert other.finish() == unbroken
    assert f"the saved state {newest.name} is damaged" in other.log
    assert "resuming this run after" in other.log


def long(finished: Clone, folder: Path) -> Clone:
    """A clone whose data are made already, with a run before it that is long enough to stop."""
    clone = finished.copy(folder)
    clone.cache = folder / "cache"
    clone.change({"train": {"epochs": 15, "patience": 15}})
    return clone


def test_killed_dvc_leaves_a_trainer_that_the_next_repro_finds(finished: Clone, tmp_path: Path) -> None:
    """DVC does not stop its stage when it is killed itself."""
    clone = long(finished, tmp_path)
    command = ["dvc", "repro", "train"]
    dvc = clone.start(*command)
    clone.saved(dvc)
    dvc.kill()
    dvc.wait()
    printed = clone.run(*command, status=255)
    found = re.search(r"the same run is being trained by process (\d+) on \S+ since", printed)
    assert found, printed
    os.kill(int(found[1]), signal.SIGTERM)
    dvc.communicate(timeout=60)  # until the trainer has ended, which holds the pipe too
    assert "resuming this run after" in clone.run(*command)
    assert json.loads(clone.read("metrics/train.json"))["epochs"] >= 10


def test_interrupted_experiment_in_a_temporary_folder_goes_on(finished: Clone, tmp_path: Path) -> None:
    """Ctrl-C reaches DVC and the stage; the next `dvc exp run --temp` starts in another folder."""
    clone = long(finished, tmp_path)
    command = ["dvc", "exp", "run", "--temp", "--name", "kept", "train"]
    experiment = clone.start(*command)
    clone.saved(experiment)
    os.killpg(experiment.pid, signal.SIGINT)
    experiment.communicate()
    assert experiment.returncode != 0
    printed = clone.run(*command)
    assert "resuming this run after" in printed
    assert "kept" in clone.dvc("exp", "list", "--name-only")
