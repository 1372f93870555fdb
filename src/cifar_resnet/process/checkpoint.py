"""Checkpoints in a folder: written atomically, verified when read, the last two kept."""

import hashlib
import io
import math
import time
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import files
from cifar_resnet.training.state import TrainState

KEPT = 2
SAVE_SECONDS = 300.0  # between saves inside a long epoch: the most work that a kill can cost
EPOCH_SECONDS = 30.0  # between saves at the end of short epochs, at least
TIMES = 50  # as long as the last save took, at least, so that saving costs at most 2 % of the time


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first.

    A name is SERIAL.LABEL.SHA256.pt: one rename publishes content and digest.
    """
    return sorted(folder.glob("[0-9]*.*.pt"))


def save(folder: Path, state: dict[str, Any], label: str) -> None:
    """Add `state` (tensors and plain containers) to `folder`, then drop all but the last two.

    `label`: a short name of it, without a dot. Whenever the process or the machine stops, the folder holds
    the checkpoints before or the checkpoint after. Raises OSError that names the folder and the size.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    before = saved(folder)
    serial = int(before[-1].name.split(".")[0]) + 1 if before else 0
    digest = hashlib.sha256(content).hexdigest()
    try:
        files.write_bytes(folder / f"{serial:08d}.{label}.{digest}.pt", content)
        for old in before[: 1 - KEPT]:
            old.unlink()
    except OSError as error:
        size = f"{len(content) / 1e6:,.0f} MB"
        raise OSError(error.errno, f"could not save {size} in {folder}: {error.strerror}") from error


def load(folder: Path) -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint, or None; name damaged newer ones, which go."""
    for path in reversed(saved(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name.split(".")[-2]:
            # The one place that reads torch.save files: verified, and tensors and containers only.
            buffer = io.BytesIO(content)
            state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)  # noqa: TID251
            return state
        print(f"the checkpoint {path.name} is damaged (its SHA-256 does not fit), so it is removed")
        path.unlink()
    return None


class Saver:
    """Saves the state of a run in `folder` now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.warned = folder, 0.0, False
        self.started, self.last = time.monotonic(), -math.inf

    def save(self, state: TrainState) -> None:
        """Save `state` now. Raises OSError when that fails."""
        start = time.monotonic()
        save(self.folder, state.state_dict(), f"{state.epoch}-{state.step}")
        self.last = time.monotonic()
        self.seconds = self.last - start

    def save_if_due(self, state: TrainState, epoch_ended: bool) -> None:
        """Save `state` at an epoch's end, and every five minutes inside a long epoch.

        A save that fails is said once, and training goes on.
        """
        now, rest = time.monotonic(), TIMES * self.seconds
        late = now > max(self.started, self.last) + max(SAVE_SECONDS, rest)
        if late or (epoch_ended and now > self.last + max(EPOCH_SECONDS, rest)):
            self.try_to_save(state)

    def try_to_save(self, state: TrainState) -> None:
        """Save `state` now, or say once that it cannot be saved."""
        try:
            self.save(state)
        except OSError as error:
            self.last = time.monotonic()
            if not self.warned:
                print(f"{error}; training goes on, but what it does now would be lost if it were stopped")
            self.warned = True
