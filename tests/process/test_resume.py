"""A stopped run goes on as if nothing had happened: killed in many ways, compared with an unbroken one."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from tests.conftest import FORK, Clone
from tests.process.test_checkpoint import STEPS, is_folder

pytestmark = pytest.mark.slow
OUTPUTS = ("models/resnet50.safetensors", "metrics/train.json", "plots/history.csv")
YIELDS = 3 * (8 + 1 + 1)  # of the tiny run: epochs x (steps, validation batch, record)
STEP_DELAY = 0.02  # seconds: spreads the steps, so that signals meet every part of one


def train(
    folder: Path,
    cache: Path,
    yields: "Synchronized[int]",
    save_every_step: bool,
    die_in: tuple[str, int] | None,
) -> None:
    """The train stage in `folder`, counting its `yields`.

    `die_in` names a step of a save and which one of them ends in SIGKILL.
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
    if die_in:
        name, last = die_in
        owner, function = STEPS[name]
        original, calls = getattr(owner, function), []

        def deadly(first: Any, *others: object) -> object:
            if function != "fsync" or is_folder(first) == (name == "folder fsync"):
                calls.append(first)
            if len(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(first, *others)

        setattr(owner, function, deadly)
    update = progress.Progress.update

    def slow(self: progress.Progress, *arguments: object) -> None:
        yields.value += 1
        time.sleep(STEP_DELAY)
        update(self, *arguments)  # type: ignore[arg-type]

    progress.Progress.update = slow  # type: ignore[assignment,method-assign]
    sys.argv = ["stage"]
    command.run(stage.main, None)


class Run:
    """A folder to train in, with the finished clone's tensors."""

    def __init__(self, source: Clone, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.yields: Synchronized[int] = FORK.Value("i", 0)
        folder.mkdir()
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(source.folder / name, folder)
        for name in ("data", "src", "stages"):
            (folder / name).symlink_to(source.folder / name)

    def start(self, save_every_step: bool = False, die_in: tuple[str, int] | None = None) -> BaseProcess:
        arguments = (self.folder, self.cache, self.yields, save_every_step, die_in)
        process = FORK.Process(target=train, args=arguments)
        process.start()
        return process

    def stop(self, process: BaseProcess, number: signal.Signals, chosen: random.Random) -> None:
        """Send a signal at a random moment between the first yield and the last but two."""
        moment = chosen.randrange(1, YIELDS - 2)
        deadline = time.monotonic() + 60
        while self.yields.value < moment:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.001)
        time.sleep(chosen.uniform(0, 2 * STEP_DELAY))
        assert process.pid
        os.kill(process.pid, number)
        process.join()

    def finish(self) -> dict[str, bytes]:
        """Train to the end; return the outputs."""
        process = self.start()
        process.join()
        assert process.exitcode == 0, self.log
        assert not list((self.cache / "resume").iterdir()), "a finished run leaves no state behind"
        return {path: (self.folder / path).read_bytes() for path in OUTPUTS}

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def unbroken(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of a run that nothing stopped."""
    run = Run(finished, tmp_path_factory.mktemp("unbroken") / "run")
    outputs = run.finish()
    assert run.yields.value == YIELDS
    assert outputs == {path: finished.read(path) for path in OUTPUTS}, "the harness changes nothing"
    return outputs


@pytest.mark.parametrize("trial", [0, 1, 5, 6])  # in all three epochs
def test_killed_at_a_random_moment(
    trial: int, unbroken: dict[str, bytes], finished: Clone, tmp_path: Path
) -> None:
    run = Run(finished, tmp_path / "run")
    process = run.start(save_every_step=trial % 2 == 0)
    run.stop(process, signal.SIGKILL, random.Random(trial))
    assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"
    assert run.finish() == unbroken


@pytest.mark.parametrize("die_in", [("fsync", 8), ("replace", 10), ("folder fsync", 3)])
def test_killed_while_saving(
    die_in: tuple[str, int], unbroken: dict[str, bytes], finished: Clone, tmp_path: Path
) -> None:
    run = Run(finished, tmp_path / "run")
    process = run.start(save_every_step=True, die_in=die_in)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert run.finish() == unbroken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(
    number: signal.Signals, unbroken: dict[str, bytes], finished: Clone, tmp_path: Path
) -> None:
    run = Run(finished, tmp_path / "run")
    process = run.start()
    run.stop(process, number, random.Random(number))
    assert process.exitcode == 128 + number, run.log
    assert f"{number.name}: saving the state and stopping" in run.log
    assert run.finish() == unbroken
    assert re.search(r"resuming this run after \d+ epochs and \d+ steps", run.log)


def test_a_run_goes_on_in_another_clone_with_a_moved_cache_folder_and_a_damaged_state(
    unbroken: dict[str, bytes], finished: Clone, tmp_path: Path
) -> None:
    run, other = Run(finished, tmp_path / "run"), Run(finished, tmp_path / "other")
    run.start(save_every_step=True, die_in=("folder fsync", 5)).join()
    run.cache.rename(other.cache)
    newest = sorted((other.cache / "resume").glob("*/[0-9]*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert other.finish() == unbroken
    assert f"the saved state {newest.name} is damaged" in other.log
    assert "resuming this run after" in other.log


def test_other_params_other_run(unbroken: dict[str, bytes], finished: Clone, tmp_path: Path) -> None:
    """A state is never continued by a run that would compute something else."""
    run = Run(finished, tmp_path / "run")
    run.start(save_every_step=True, die_in=("folder fsync", 5)).join()
    params = run.folder / "params.yaml"
    params.write_text(params.read_text().replace("weight_decay: 0.01", "weight_decay: 0.02"))
    run.start().join()
    assert "resuming" not in run.log
    (left,) = (run.cache / "resume").iterdir()
    told = re.search(
        r"^an unfinished run is kept, (\d) epochs and (\d) steps long, \d MB: .*$", run.log, re.M
    )
    assert told, run.log
    newest = max(left.glob("[0-9]*.pt")).name.split(".")[1]
    assert f"{told[1]}-{told[2]}" == newest
    assert "goes on with it after train.optimizer.weight_decay: 0.01 in params.yaml; `rm -r" in told[0]
    assert f"`rm -r {left}` forgets it" in told[0]
    params.write_text(params.read_text().replace("weight_decay: 0.02", "weight_decay: 0.01"))
    assert run.finish() == unbroken, "as it says"


def long(finished: Clone, folder: Path) -> Clone:
    """A clone whose data are made already, with a run before it that is long enough to stop."""
    clone = finished.copy(folder)
    clone.cache = folder / "cache"
    clone.change({"train": {"epochs": 15, "patience": 15}})
    return clone


def wait_for_state(clone: Clone, process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Return when the run that `process` has started has saved a state."""
    deadline = time.monotonic() + 120
    while not list((clone.cache / "cifar-resnet/resume").glob("*/[0-9]*.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_dvc_leaves_a_trainer_that_the_next_repro_finds(finished: Clone, tmp_path: Path) -> None:
    """DVC does not stop its stage when it is killed itself."""
    clone = long(finished, tmp_path)
    command = ["dvc", "repro", "train"]
    dvc = subprocess.Popen(command, cwd=clone.folder, env=clone.real_environment, stdout=subprocess.DEVNULL)
    wait_for_state(clone, dvc)
    dvc.kill()
    dvc.wait()
    printed = clone.run(*command, status=255)
    found = re.search(r"the same run is being trained by process (\d+) on \S+ since", printed)
    assert found, printed
    os.kill(int(found[1]), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{found[1]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "resuming this run after" in clone.run(*command)
    assert json.loads(clone.read("metrics/train.json"))["epochs"] >= 10


def test_interrupted_experiment_in_a_temporary_folder_goes_on(finished: Clone, tmp_path: Path) -> None:
    """Ctrl-C reaches DVC and the stage; the next `dvc exp run --temp` starts in another folder."""
    clone = long(finished, tmp_path)
    command = ["dvc", "exp", "run", "--temp", "--name", "kept", "train"]
    experiment = subprocess.Popen(
        command,
        cwd=clone.folder,
        env=clone.real_environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_state(clone, experiment)
    os.killpg(experiment.pid, signal.SIGINT)
    experiment.communicate()
    assert experiment.returncode != 0
    printed = clone.run(*command)
    assert "resuming this run after" in printed
    assert "kept" in clone.dvc("exp", "list", "--name-only")
