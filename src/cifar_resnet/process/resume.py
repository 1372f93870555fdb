"""Where a run's checkpoints outlive its process, who holds them, and how the next process takes them up."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifar_resnet import files, params
from cifar_resnet.errors import UserError
from cifar_resnet.numerics import Numerics
from cifar_resnet.process import checkpoint, machine
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.distributed.world import World
from cifar_resnet.training.state import TrainState

RUN = "run.json"  # in a run's folder: its params, and which process had it last
DONE = "done.json"  # in the folder of a finished run
DONE_DAYS = 7  # after which the folder of a finished run goes in any case
LOCK_PROBE_SECONDS = 1.0  # that a lock may be taken by a process which only looks
SHOWN = 3  # interrupted runs


def folder_of_runs() -> Path:
    """Return where the checkpoints of all runs lie: not in the workspace, which DVC clears."""
    return files.cache() / "resume"


def run_folder(config: TrainConfig, data: list[str], chosen: Numerics) -> Path:
    """Return the folder of this very run: its name hashes all that decides the run's bits.

    `data`: the SHA-256 of what the run reads.
    """
    run = {
        "params": config.model_dump(mode="json"),
        "data": data,
        "code": _code_digest(),
        "hardware": machine.fingerprint(chosen.device),
        "precision": str(chosen.dtype),  # `auto` is not the same everywhere
        "compiled": chosen.compiled,
    }
    return folder_of_runs() / hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def _code_digest() -> str:
    """The SHA-256 of the code that dvc.yaml names as what `train` depends on, and of no other."""
    deps = params.read_yaml(Path("dvc.yaml"))["stages"]["train"]["deps"]
    digest = hashlib.sha256()
    for dep in map(Path, deps):
        for path in sorted(dep.rglob("*.py")) if dep.is_dir() else [dep]:
            hidden = any(part.startswith(".") for part in path.parts)  # an editor's copy or lock
            if path.suffix == ".py" and not hidden:
                digest.update(path.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


class Inputs:
    """What a run was started with: DVC would record what is there at its end."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.code, self.warned = config, _code_digest(), False

    def edited(self) -> str:
        """Return what was changed since, in words; nothing if all is as it was."""
        with suppress(UserError, OSError):  # in the middle of an edit
            if params.read("train", TrainConfig) != self.config:
                return "params.yaml's train section"
            if _code_digest() == self.code:
                return ""
        return "params.yaml or the code that train depends on"

    def warn(self) -> None:
        """Say once that something was changed."""
        if (edited := self.edited()) and not self.warned:
            print(f"{edited} was changed while training runs: put it back, or the result cannot be kept")
            self.warned = True

    def check(self) -> None:
        """Raise UserError when something was changed."""
        if edited := self.edited():
            raise UserError(
                f"{edited} was changed while training ran, so the result is not of what is there now; put it"
                " back, and `dvc repro` ends at once (the last checkpoint is kept)"
            )


@contextmanager
def hold(folder: Path, config: TrainConfig, world: World) -> Iterator[None]:
    """Hold `folder` as the only run, and name the interrupted ones; the first process does it for all.

    The lock ends with the process, however that ends. A folder without a checkpoint does not stay.
    Raises UserError that says which process has the folder and since when.
    """
    if world.rank:
        yield
        return
    forget_recorded()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=LOCK_PROBE_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        run = _read_json(folder / RUN, pid=int, host=str, since=str)
        process = "process {pid} on {host} since {since}".format(**run) if run else "another process"
        # A lock with content is a mere file, on a disk that has no locks; it outlives another host's process.
        stale = f"; if that process is gone, `rm {lock.lock_file}`" * bool((folder / "lock").stat().st_size)
        raise UserError(
            f"the same run is being trained by {process}, which has locked {lock.lock_file};"
            f" wait for it to end, or stop it and start again: nothing is lost{stale}"
        ) from None
    try:
        settings = config.model_dump(mode="json")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        files.write_bytes(folder / RUN, json.dumps({"params": settings} | who).encode())
        for killed in folder.glob(".*.pt"):  # in the middle of a save
            killed.unlink()
        _name_interrupted(folder, settings)
        yield
    finally:
        if not checkpoint.saved(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _free_runs() -> Iterator[Path]:
    """Go through the folders of runs that no process holds, holding each meanwhile."""
    parent = folder_of_runs()
    for folder in sorted(parent.glob("[0-9a-f]" * 16)):
        # One that is held is not left behind; one that is gone has just finished; one may be another user's.
        with suppress(Timeout, FileNotFoundError, NotADirectoryError, PermissionError):
            if folder.is_dir():
                with FileLock(folder / "lock", timeout=0):
                    yield folder


def _read_json(path: Path, **kinds: type) -> dict[str, Any]:
    """What a JSON file of ours says; nothing where it is missing, damaged, or lacks values of these kinds."""
    try:
        found = json.loads(path.read_bytes())
        return found if all(isinstance(found[name], kind) for name, kind in kinds.items()) else {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}


def _name_interrupted(folder: Path, settings: dict[str, Any]) -> None:
    """Print a line about each run but `folder` that stopped after a save, the latest first."""
    lines = [
        (states[-1].stat().st_mtime, _describe_interrupted(run, states, settings))
        for run in _free_runs()
        if run != folder and (states := checkpoint.saved(run))
    ]
    for _, line in sorted(lines, reverse=True)[:SHOWN]:
        print(line)
    if len(lines) > SHOWN:
        print(f"and {len(lines) - SHOWN} more interrupted runs in {folder.parent}")


def _describe_interrupted(run: Path, states: list[Path], settings: dict[str, Any]) -> str:
    """Return a line about an interrupted run beside one with `settings`: what it is, how to take it up."""
    size = f"{sum(path.stat().st_size for path in states) / 1e6:,.0f} MB"
    if done := _read_json(run / DONE, clone=str, model=str):
        return (
            f"a finished run is kept, {size}: {done['clone']}/dvc.lock lacks its model;"
            f" `dvc repro` there ends at once, or `dvc commit train`; `rm -r {run}` forgets it"
        )
    theirs = params.flatten(_read_json(run / RUN, params=dict).get("params", {}))
    ours = params.flatten(settings)
    changed = [f"{name}: {value!r}" for name, value in theirs.items() if ours.get(name) != value]
    back = f"train.{', train.'.join(changed)} in params.yaml" if changed else "its code, data and machine"
    epochs, _, steps = states[-1].name.split(".")[1].partition("-")
    return (
        f"an interrupted run is kept, {epochs} epochs and {steps} steps long, {size}:"
        f" `dvc repro` goes on with it after {back}; `rm -r {run}` forgets it"
    )


def restore(state: TrainState, folder: Path, world: World) -> None:
    """Take up the newest undamaged checkpoint in the first process's `folder`, if any, and say so."""
    found, damaged = checkpoint.load(folder) if world.rank == 0 else (None, [])
    for name in damaged:
        print(f"the checkpoint {name} is damaged (its SHA-256 does not fit); going back to the one before")
    found = world.broadcast(found)
    if found:
        state.load_state_dict(found)
        length = f"{state.epoch} epochs and {state.step} steps, found in {folder}"
        finished = ": it had finished, but dvc.lock does not have its model"
        print(f"resuming this run after {length}{finished if (folder / DONE).exists() else ''}")


def finish(folder: Path) -> None:
    """Let go of a finished run. Under DVC its last checkpoint stays until dvc.lock has the model.

    DVC may fail to record the model: its lock is taken, its cache is full.
    """
    if "DVC_STAGE" not in os.environ:
        shutil.rmtree(folder)
        return
    for old in checkpoint.saved(folder)[:-1]:
        old.unlink()
    with files.MODEL.open("rb") as file:
        model = hashlib.file_digest(file, "md5").hexdigest()
    try:
        files.write_bytes(folder / DONE, json.dumps({"model": model, "clone": str(Path.cwd())}).encode())
    except OSError as error:  # the run itself is whole
        print(f"{error}; so {folder} is removed, and this run is lost if DVC cannot record it")
        shutil.rmtree(folder)


def forget_recorded() -> None:
    """Remove the finished runs whose clone is gone or has recorded the model, or that are a week old."""
    for folder in _free_runs():
        if done := _read_json(folder / DONE, clone=str, model=str):
            lock = Path(done["clone"]) / "dvc.lock"
            days = (time.time() - (folder / DONE).stat().st_mtime) / 86_400
            recorded = lock.exists() and done["model"] in lock.read_text()
            if days > DONE_DAYS and not recorded:
                print(f"removing {folder}: that run finished {days:.0f} days ago, {lock} never got its model")
            if recorded or days > DONE_DAYS or not lock.parent.exists():
                shutil.rmtree(folder)
