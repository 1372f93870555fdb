"""Where a run's state outlives its process, and how the next process takes it up."""

import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.process import checkpoint, machine
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.distributed.world import World
from cifar_resnet.training.state import TrainState

SAVE_SECONDS = 300  # between saves inside a long epoch: the most work that a kill can cost
EPOCH_SECONDS = 30  # at least between saves at the end of epochs, which take 3 s on a fast GPU
SHOWN = 3  # unfinished runs


def resume_folder(
    config: TrainConfig, data: list[str], target: torch.device, dtype: torch.dtype, compiled: bool
) -> Path:
    """Return the folder of this very run: its name hashes all that decides the run's bits.

    `data`: the SHA-256 of what it reads. It lies outside the workspace, which DVC clears before a stage runs
    and which an experiment in a temporary folder loses.
    """
    run = {
        "params": config.model_dump(mode="json"),
        "data": data,
        "code": _code_digest(),
        "hardware": machine.fingerprint(target),
        "precision": str(dtype),  # `auto` is not the same everywhere
        "compiled": compiled,
    }
    return checkpoint.folder_of_runs() / checkpoint.run_key(run)


def _code_digest() -> str:
    """The SHA-256 of the code that dvc.yaml names as what `train` depends on, and of no other."""
    deps = files.read_yaml(Path("dvc.yaml"))["stages"]["train"]["deps"]
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
            if files.read_params("train", TrainConfig) != self.config:
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
    """Hold `folder` as the only run, and name those left behind; the first process does it for all."""
    if world.rank:
        yield
        return
    params = config.model_dump(mode="json")
    checkpoint.forget_recorded(folder.parent)
    with checkpoint.hold(folder, {"params": params}):
        others = [run for run in checkpoint.unfinished(folder.parent) if run.folder != folder]
        for run in others[:SHOWN]:
            print(_left_behind(run, params))
        if len(others) > SHOWN:
            print(f"and {len(others) - SHOWN} more unfinished runs in {folder.parent}")
        yield


def _left_behind(run: checkpoint.Unfinished, params: dict[str, Any]) -> str:
    """Return a line about an unfinished run beside one with `params`: what it is, how to take it up."""
    if run.done:
        return (
            f"a finished run is kept, {run.size / 1e6:,.0f} MB: {run.done['clone']}/dvc.lock lacks its model;"
            f" `dvc repro` there ends at once, or `dvc commit train`; `rm -r {run.folder}` forgets it"
        )
    theirs, ours = _flat(run.about.get("params", {})), _flat(params)
    changed = [f"{name}: {value!r}" for name, value in theirs.items() if ours.get(name) != value]
    back = f"train.{', train.'.join(changed)} in params.yaml" if changed else "its code, data and machine"
    epochs, _, steps = run.label.partition("-")
    length = f"{epochs} epochs and {steps} steps long"
    return (
        f"an unfinished run is kept, {length}, {run.size / 1e6:,.0f} MB:"
        f" `dvc repro` goes on with it after {back}; `rm -r {run.folder}` forgets it"
    )


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings under names with dots."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        inner = _flat(value) if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}.{rest}": one for rest, one in inner.items()}
    return flat


class Keeper(checkpoint.Saver):
    """Saves the state of a run now and then."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(folder, device)
        self.started, self.saved = time.monotonic(), -math.inf

    def keep(self, state: TrainState, epoch_ended: bool, now: bool) -> None:
        """Save `state` at the end of an epoch and now and then inside one, unless a save is still under way.

        After the first save, no two come closer together than EPOCH_SECONDS. `now`: in any case.
        """
        time_now = time.monotonic()
        late = time_now > max(self.started, self.saved) + SAVE_SECONDS
        due = late or (epoch_ended and time_now > self.saved + EPOCH_SECONDS)
        if now or (due and self.idle()):
            self.save(state.state_dict(), f"{state.epoch}-{state.step}")
            self.saved = time.monotonic()


def restore(state: TrainState, folder: Path, world: World) -> None:
    """Take up the newest undamaged state in the first process's `folder`, if there is one, and say so."""
    saved, damaged = checkpoint.load(folder) if world.rank == 0 else (None, [])
    for name in damaged:
        print(f"the saved state {name} is damaged (its SHA-256 does not fit); going back to the one before")
    saved = world.broadcast(saved)
    if saved:
        state.load_state_dict(saved)
        finished = (folder / checkpoint.DONE).exists()
        length = f"{state.epoch} epochs and {state.step} steps, found in {folder}"
        why = ": it had finished, but dvc.lock does not have its model" if finished else ""
        print(f"resuming this run after {length}{why}")


def finish(folder: Path) -> None:
    """Let go of a finished run; under DVC its last state stays until dvc.lock has the model."""
    if "DVC_STAGE" in os.environ:
        with files.MODEL.open("rb") as file:
            checkpoint.finish(folder, hashlib.file_digest(file, "md5").hexdigest())
    else:
        checkpoint.remove(folder)
