"""The runs whose checkpoints are kept: where they lie, which were interrupted, which can go."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from cifar_resnet import files, params
from cifar_resnet.process import checkpoint

RUN = "run.json"  # in a run's folder: its params, and which process had it last
DONE = "done.json"  # in the folder of a finished run
DONE_DAYS = 7  # after which the folder of a finished run goes in any case
SHOWN = 3  # interrupted runs


def folder_of_runs() -> Path:
    """Return where the checkpoints of all runs lie: not in the workspace, which DVC clears."""
    return files.cache() / "resume"


def read_json(path: Path, **kinds: type) -> dict[str, Any]:
    """Return what a JSON file says; nothing where it is missing, damaged, or lacks values of these kinds."""
    try:
        found = json.loads(path.read_bytes())
        return found if all(isinstance(found[name], kind) for name, kind in kinds.items()) else {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}


def _free_runs() -> Iterator[Path]:
    """Go through the folders of runs that no process holds, holding each meanwhile."""
    found = folder_of_runs().glob("[0-9a-f]" * 16)
    for folder in sorted(path for path in found if not path.is_symlink()):
        # One may be held, just removed, another user's, or have a lock that is no file: each is passed over.
        with suppress(OSError), FileLock(folder / "lock", timeout=0):
            yield folder


def name_interrupted(folder: Path, settings: dict[str, Any]) -> None:
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
    if done := read_json(run / DONE, clone=str, model=str):
        return (
            f"a finished run is kept, {size}: {done['clone']}/dvc.lock lacks its model;"
            f" `dvc repro` there ends at once, or `dvc commit train`; `rm -r {run}` forgets it"
        )
    theirs = params.flatten(read_json(run / RUN, params=dict).get("params", {}))
    ours = params.flatten(settings)
    changed = [f"{name}: {value!r}" for name, value in theirs.items() if ours.get(name) != value]
    back = f"train.{', train.'.join(changed)} in params.yaml" if changed else "its code, data and machine"
    epochs, _, steps = states[-1].name.split(".")[1].partition("-")
    return (
        f"an interrupted run is kept, {epochs} epochs and {steps} steps long, {size}:"
        f" `dvc repro` goes on with it after {back}; `rm -r {run}` forgets it"
    )


def forget_recorded() -> None:
    """Remove the finished runs whose clone is gone or has recorded the model, or that are a week old."""
    for folder in _free_runs():
        with suppress(OSError, ValueError):  # an odd note, or another process removes the run too
            if done := read_json(folder / DONE, clone=str, model=str):
                lock = Path(done["clone"]) / "dvc.lock"
                days = (time.time() - (folder / DONE).stat().st_mtime) / 86_400
                recorded = lock.exists() and done["model"] in lock.read_text()
                if days > DONE_DAYS and not recorded:
                    print(f"removing {folder}: a run of {days:.0f} days ago, {lock} never got its model")
                if recorded or days > DONE_DAYS or not lock.parent.exists():
                    shutil.rmtree(folder)
