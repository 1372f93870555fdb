"""Resume states on disk: written atomically, verified when read, the last two kept, one trainer at a time."""

import copy
import hashlib
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

KEPT = 2


def run_key(facts: dict[str, Any]) -> str:
    """Return a short name for everything that decides a run's bits: `facts` must be JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _states(folder: Path) -> list[Path]:
    """Saved states, oldest first; a name is SERIAL.SHA256.pt, so that one rename publishes both."""
    return sorted(folder.glob("*.*.pt"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Add `state` (tensors and plain containers) to `folder`, then drop all but the last two.

    Whenever the process or the machine stops, the folder holds the states before or the state after.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    states = _states(folder)
    serial = int(states[-1].name.split(".")[0]) + 1 if states else 0
    target = folder / f"{serial:08d}.{hashlib.sha256(content).hexdigest()}.pt"
    temporary = folder / "unfinished"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    _sync(folder)
    for old in states[: 1 - KEPT]:
        old.unlink()


class Saver:
    """Saves states in a thread, one at a time, while training goes on; leaving it waits for the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown()
        if self.writing:
            self.writing.result()

    def idle(self) -> bool:
        """Return whether `save` would start at once."""
        return self.writing is None or self.writing.done()

    def save(self, state: dict[str, Any]) -> None:
        """Copy `state` and start writing it, after the one before. Raises the OSError which that one met."""
        if self.writing:
            self.writing.result()
        stream = torch.cuda.Stream() if torch.cuda.is_initialized() else None
        snapshot = copy.deepcopy(state)  # on the device: the way to main memory is the thread's business
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        self.writing = self.thread.submit(self._write, snapshot, stream)

    def _write(self, state: dict[str, Any], stream: torch.cuda.Stream | None) -> None:
        with torch.cuda.stream(stream):  # None, without a GPU, does nothing
            save(self.folder, state)


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest undamaged state, or None, and the names of damaged newer ones, which are removed."""
    damaged: list[str] = []
    for path in reversed(_states(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name.split(".")[1]:
            # The one place that reads torch.save files: verified, and tensors and containers only.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
            return state, damaged
        damaged.append(path.name)
        path.unlink()
    return None, damaged


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold `folder` as the only process; the lock ends with the process, however that ends.

    Raises ValueError that says who has it and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "holder.json"
    try:
        with FileLock(folder / "lock", timeout=0):
            holder.write_text(
                json.dumps(
                    {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
                )
            )
            yield
    except Timeout:
        who = json.loads(holder.read_text())
        raise ValueError(
            f"the same run is being trained by process {who['pid']} on {who['host']} since {who['since']};"
            " wait for it to end, or stop it and start again: nothing is lost"
        ) from None


def remove(folder: Path) -> None:
    """Forget a finished run."""
    shutil.rmtree(folder)
