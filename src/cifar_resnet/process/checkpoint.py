"""Resume states on disk: written atomically, verified when read, the last two kept, one trainer at a time."""

import copy
import hashlib
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from filelock import FileLock, Timeout

from cifar_resnet import files
from cifar_resnet.files.params import UserError

KEPT = 2
HOLDER = "holder.json"
DONE = "done.json"  # in the folder of a finished run
DONE_DAYS = 7  # after which the folder of a finished run goes in any case
LOOK = 1.0  # seconds that a lock may be taken by a process which only looks
RUN = re.compile("[0-9a-f]{16}")  # a name that `run_key` gives


def folder_of_runs() -> Path:
    """Return where the states of all runs lie; XDG_CACHE_HOME can name a disk that outlives the machine."""
    return files.CACHE / "resume"


def run_key(facts: dict[str, Any]) -> str:
    """Return a short name for everything that decides a run's bits: `facts` must be JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _states(folder: Path) -> list[Path]:
    """Saved states, oldest first; a name is SERIAL.LABEL.SHA256.pt: one rename publishes state and digest."""
    return sorted(folder.glob("[0-9]*.*.pt"))


def save(folder: Path, state: dict[str, Any], label: str = "state") -> None:
    """Add `state` (tensors and plain containers) to `folder`, then drop all but the last two.

    `label`: a short name of it, without a dot.
    Whenever the process or the machine stops, the folder holds the states before or the state after.
    """
    _write(folder, _content(state), label)


def _content(state: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _write(folder: Path, content: memoryview, label: str) -> None:
    states = _states(folder)
    serial = int(states[-1].name.split(".")[0]) + 1 if states else 0
    digest = hashlib.sha256(content).hexdigest()
    try:
        files.write_bytes(folder / f"{serial:08d}.{label}.{digest}.pt", content)
        for old in states[: 1 - KEPT]:
            old.unlink()
    except OSError as error:
        size = f"{len(content) / 1e6:,.0f} MB"
        raise OSError(error.errno, f"could not save {size} in {folder}: {error.strerror}") from error


class Saver:
    """Saves states in a thread, one at a time, while training goes on; leaving it waits for the last one.

    `device`: where the states' tensors are. A save that fails is said once, and training goes on. Only a
    process that stops early has to have saved: leaving it by SystemExit raises the OSError of the last save.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.thread.shutdown()
        self._wait(stopping=kind is SystemExit)

    def _wait(self, stopping: bool = False) -> None:
        """Wait for the save under way, and say why it failed if it did."""
        error = self.writing.exception() if self.writing else None
        if error and (stopping or not isinstance(error, OSError)):
            raise error
        if error and not self.warned:
            print(f"{error}; training goes on, but what it does now would be lost if it were stopped")
            self.warned = True

    def idle(self) -> bool:
        """Return whether `save` would start at once."""
        return self.writing is None or self.writing.done()

    def save(self, state: dict[str, Any], label: str = "state") -> None:
        """Copy `state` and start writing it, after the one before."""
        self._wait()
        if (
            self.device.type == "mps"
        ):  # aborts in two threads: https://github.com/pytorch/pytorch/issues/197805
            self.writing = self.thread.submit(_write, self.folder, _content(state), label)
            return
        snapshot = copy.deepcopy(state)  # on the device: the way to main memory is the thread's business
        if self.device.type == "cuda":
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            self.writing = self.thread.submit(self._save_from_gpu, snapshot, label, stream)
        else:
            self.writing = self.thread.submit(save, self.folder, snapshot, label)

    def _save_from_gpu(self, state: dict[str, Any], label: str, stream: torch.cuda.Stream) -> None:
        with torch.cuda.device(self.device), torch.cuda.stream(stream):  # a new thread has the first GPU
            save(self.folder, state, label)


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the newest undamaged state, or None, and the names of damaged newer ones, which are removed."""
    damaged: list[str] = []
    for path in reversed(_states(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name.split(".")[-2]:
            # The one place that reads torch.save files: verified, and tensors and containers only.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
            return state, damaged
        damaged.append(path.name)
        path.unlink()
    return None, damaged


def _read(path: Path, *names: str) -> dict[str, Any]:
    """What a JSON file of ours says; nothing where it is missing, not whole, or lacks one of `names`."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) and found.keys() >= set(names) else {}


@contextmanager
def hold(folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Hold `folder` as the only process; the lock ends with the process, however that ends.

    `about`: what `unfinished` tells of it later, JSON. A folder without a state does not stay.
    Raises UserError that says who has it and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder, lock = folder / HOLDER, folder / "lock"
    try:
        with FileLock(lock, timeout=LOOK):
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
            files.write_bytes(holder, json.dumps(about | who).encode())
            for killed in folder.glob(".*.pt"):  # in the middle of a save
                killed.unlink()
            try:
                yield
            finally:
                if folder.exists() and not _states(folder):
                    remove(folder)
    except Timeout:
        who = _read(holder, "pid", "host", "since")
        process = "process {pid} on {host} since {since}".format(**who) if who else "another process"
        raise UserError(
            f"the same run is being trained by {process}, which has locked {lock};"
            " wait for it to end, or stop it and start again: nothing is lost"
        ) from None


class Unfinished(NamedTuple):
    """A run that nobody holds and that can go on: `about` as `hold` was given it."""

    folder: Path
    about: dict[str, Any]
    label: str  # of its last state
    saved: float  # seconds since 1970
    size: int  # bytes
    done: dict[str, Any]  # what `finish` was given


def _free(parent: Path) -> Iterator[Path]:
    """Go through the folders of runs in `parent` that no process holds, holding each meanwhile."""
    for folder in sorted(parent.iterdir()) if parent.exists() else []:
        # One that is held is not left behind; one that is gone has just finished; one may be another user's.
        with suppress(Timeout, FileNotFoundError, NotADirectoryError, PermissionError):
            if RUN.fullmatch(folder.name) and folder.is_dir():
                with FileLock(folder / "lock", timeout=0):
                    yield folder


def unfinished(parent: Path) -> list[Unfinished]:
    """Return the runs in `parent` that stopped after a save, the latest first."""
    found = []
    for folder in _free(parent):
        if states := _states(folder):
            sizes, saved = [path.stat().st_size for path in states], states[-1].stat().st_mtime
            about, done = _read(folder / HOLDER), _read(folder / DONE, "clone", "model")
            label = states[-1].name.split(".")[1]
            found.append(Unfinished(folder, about, label, saved, sum(sizes), done))
    return sorted(found, key=lambda run: run.saved, reverse=True)


def finish(folder: Path, model: str) -> None:
    """Keep a finished run's last state until dvc.lock in the working folder has its model.

    `model`: the MD5 of the model's file. DVC may fail to record it: its lock is taken, its cache is full.
    """
    for old in _states(folder)[:-1]:
        old.unlink()
    done = {"model": model, "clone": str(Path.cwd())}
    try:
        files.write_bytes(folder / DONE, json.dumps(done).encode())
    except OSError as error:  # the run itself is whole
        print(f"{error}; so {folder} is removed, and this run is lost if DVC cannot record it")
        remove(folder)


def forget_recorded(parent: Path) -> None:
    """Remove the finished runs in `parent` whose clone is gone or has recorded the model."""
    for folder in _free(parent):
        if done := _read(folder / DONE, "clone", "model"):
            clone = Path(done["clone"])
            lock = clone / "dvc.lock"
            days = (time.time() - (folder / DONE).stat().st_mtime) / 86_400
            if not clone.exists() or (lock.exists() and done["model"] in lock.read_text()):
                remove(folder)
            elif days > DONE_DAYS:
                print(f"removing {folder}: that run finished {days:.0f} days ago, {lock} never got its model")
                remove(folder)


def remove(folder: Path) -> None:
    """Forget a run."""
    shutil.rmtree(folder)
