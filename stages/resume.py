"""Where a run's state outlives its process, and how the next process takes it up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cifar_resnet import checkpoint, device
from cifar_resnet.distributed import World
from cifar_resnet.run import TrainConfig, TrainState
from stages import command, files

SAVE_SECONDS = 300  # between saves inside a long epoch: the most work that a kill can cost


def resume_folder(config: TrainConfig, data: list[str], target: torch.device, compiled: bool) -> Path:
    """Return the folder of this very run: its name hashes all that decides the run's bits.

    `data`: the SHA-256 of what it reads. It lies outside the workspace, which DVC clears before a stage runs
    and which an experiment in a temporary folder loses.
    """
    run = {
        "params": config.model_dump(mode="json"),
        "data": data,
        "code": command.code_digest(),
        "hardware": device.fingerprint(target),
        "compiled": compiled,
    }
    return files.CACHE / "resume" / checkpoint.run_key(run)


@contextmanager
def hold(folder: Path, world: World) -> Iterator[None]:
    """Hold `folder` as the only run: the first process does it for all."""
    if world.rank:
        yield
    else:
        with checkpoint.hold(folder):
            yield


class Keeper(checkpoint.Saver):
    """Saves the state of a run now and then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved_at = time.monotonic()

    def keep(self, state: TrainState, epoch_ended: bool, now: bool) -> None:
        """Save `state` at the end of an epoch and now and then inside one, unless a save is still under way.

        `now`: in any case.
        """
        due = epoch_ended or time.monotonic() > self.saved_at + SAVE_SECONDS
        if now or (due and self.idle()):
            self.save(state.state_dict())
            self.saved_at = time.monotonic()


def restore(state: TrainState, folder: Path, world: World) -> None:
    """Take up the newest undamaged state in the first process's `folder`, if there is one, and say so."""
    saved, damaged = checkpoint.load(folder) if world.rank == 0 else (None, [])
    for name in damaged:
        print(f"the saved state {name} is damaged (its SHA-256 does not fit); going back to the one before")
    saved = world.broadcast(saved)
    if saved:
        state.load_state_dict(saved)
        print(f"resuming this run after {state.epoch} epochs and {state.step} steps, found in {folder}")
