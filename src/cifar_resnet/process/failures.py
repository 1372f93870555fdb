"""Which of several processes failed first: the others fail because of it, and what they met is no news."""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cifar_resnet import files
from cifar_resnet.files.params import UserError

FOLDER = "CIFAR_RESNET_FAILURES"  # in the environment of a process that tells its launcher why it failed
TRACEBACK = "--traceback"  # an option of every stage
FIRST = "first"


def text(error: Exception) -> str:
    """Return what a person is shown of `error`: a line if they can put it right, a traceback if it is a bug.

    A full disk or a missing file (OSError) is theirs to put right, too.
    """
    if isinstance(error, UserError | OSError) and TRACEBACK not in sys.argv:
        return f"error: {' '.join(str(error).split())}{_last_results()}"
    return "".join(traceback.format_exception(error)).rstrip()


def _last_results() -> str:
    """Say how to get the results back that DVC removed, if this stage has written none of its own yet."""
    stage, lock = os.environ.get("DVC_STAGE"), Path("dvc.lock")
    if stage is None or not lock.exists():
        return ""
    outs = [Path(out["path"]) for out in files.read_yaml(lock)["stages"].get(stage, {}).get("outs", [])]
    if not outs or any(out.is_file() or list(out.glob("*")) for out in outs):
        return ""
    return "; the last results are in DVC's cache: put the old value back and run `dvc repro`"


def record(error: Exception) -> bool:
    """Leave `error` to the launcher, which shows the first one. Returns False when no launcher listens.

    Must come before this process lets go of the others, which fail then.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        return False
    with suppress(FileExistsError), (Path(folder) / FIRST).open("x") as file:  # one process alone can make it
        file.write(f"{text(error)}\n")
    return True


@contextmanager
def collected() -> Iterator[Path]:
    """Let processes that are started meanwhile record their failures in the folder that this gives."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[FOLDER]


def first(folder: Path) -> str | None:
    """Return the text of the first failure that was recorded, if one was."""
    path = folder / FIRST
    return path.read_text() if path.exists() else None
