"""A run of `train`: named by all that decides its bits, held by one process, taken up by the next one."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_resnet import files, params
from cifar_resnet.errors import UserError
from cifar_resnet.numerics import Numerics
from cifar_resnet.process import checkpoint, machine, runs
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.distributed.world import World
from cifar_resnet.training.state import TrainState

LOCK_PROBE_SECONDS = 1.0  # that a lock may be taken by a process which only looks


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
    return runs.folder_of_runs() / hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


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
    runs.forget_recorded()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=LOCK_PROBE_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        run = runs.read_json(folder / runs.RUN, pid=int, host=str, since=str)
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
        try:
            (folder / runs.RUN).unlink(missing_ok=True)  # of the process before
            files.write_bytes(folder / runs.RUN, json.dumps({"params": settings} | who).encode())
        except OSError as error:  # a full disk, for example
            print(f"{error}; training goes on, but another run cannot say what this one is")
        for killed in folder.glob(".*.pt"):  # in the middle of a save
            killed.unlink()
        runs.name_interrupted(folder, settings)
        yield
    finally:
        if not checkpoint.saved(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def restore(state: TrainState, folder: Path, world: World) -> None:
    """Take up the newest undamaged checkpoint in the first process's `folder`, if any, and say so."""
    found = world.broadcast(checkpoint.load(folder) if world.rank == 0 else None)
    if found:
        state.load_state_dict(found)
        length = f"{state.epoch} epochs and {state.step} steps, found in {folder}"
        finished = ": it had finished, but dvc.lock does not have its model"
        print(f"resuming this run after {length}{finished if (folder / runs.DONE).exists() else ''}")


def finish(folder: Path) -> None:
    """Let go of a finished run. Under DVC its last checkpoint, if any, stays until dvc.lock has the model.

    DVC may fail to record the model: its lock is taken, its cache is full.
    """
    saved = checkpoint.saved(folder)
    kept = saved[-1:] if "DVC_STAGE" in os.environ else []
    for old in saved[: len(saved) - len(kept)]:
        old.unlink()
    if not kept:  # then `hold` removes the folder
        return
    with files.MODEL.open("rb") as file:
        model = hashlib.file_digest(file, "md5").hexdigest()
    try:
        done = json.dumps({"model": model, "clone": str(Path.cwd())})
        files.write_bytes(folder / runs.DONE, done.encode())
    except OSError as error:
        print(f"{error}; the result is complete; if DVC cannot record it, training goes on with {kept[0]}")
