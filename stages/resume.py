"""Where a run's state outlives its process, and how the next process takes it up."""

from pathlib import Path

import torch

from cifar_resnet import checkpoint, device
from cifar_resnet.run import TrainConfig, TrainState
from stages import command, files


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


def restore(state: TrainState, folder: Path) -> None:
    """Take up the newest undamaged state in `folder`, if there is one, and say so."""
    saved, damaged = checkpoint.load(folder)
    for name in damaged:
        print(f"the saved state {name} is damaged (its SHA-256 does not fit); going back to the one before")
    if saved:
        state.load_state_dict(saved)
        print(f"resuming this run after {state.epoch} epochs and {state.step} steps, found in {folder}")
