"""What a command does around its work: usage, one line for what a user can put right, exit status."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cifar_resnet import params
from cifar_resnet.errors import ParamsError, UserError

FIRST_FAILURE = "CIFAR_RESNET_FIRST_FAILURE"  # the file in which a launcher's process says why it failed
TRACEBACK = "--traceback"  # an option of every stage


@contextmanager
def one_line() -> Iterator[None]:
    """End with status 1 and one line for a user's error; a bug of ours keeps its traceback."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: tqdm needs a file
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # each line at once; a name need not be text
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # all kinds: whichever it is, a launcher shows the first one alone
        if record(error):
            sys.exit(1)
        if isinstance(error, UserError | OSError) and TRACEBACK not in sys.argv:
            sys.exit(text(error))
        raise


@contextmanager
def unread() -> Iterator[None]:
    """Let a run go on when nobody can read what it prints: `| tee` after Ctrl-C, a terminal that is gone."""
    try:
        yield
    except OSError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # what is left goes nowhere, or Python ends with another status
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(stage: Callable[[], None], description: str | None) -> None:
    """Call `stage` as what `python -m stages.NAME` does."""
    epilog = "Settings are in params.yaml."
    parser = argparse.ArgumentParser(description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument(TRACEBACK, action="store_true", help="show where an error came from")
    parser.parse_args()
    with one_line():
        stage()


def text(error: Exception) -> str:
    """Return what a person is shown of `error`: a line if they can put it right, a traceback if it is a bug.

    A full disk or a missing file (OSError) is theirs to put right, too.
    """
    if not isinstance(error, UserError | OSError) or TRACEBACK in sys.argv:
        return "".join(traceback.format_exception(error)).rstrip()
    line = " ".join(str(error).split())
    return f"error: {printable(line)}{_last_results() if isinstance(error, ParamsError) else ''}"


def printable(line: str) -> str:
    """Return `line` with escapes for what would steer a terminal, in a file's name for example."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _last_results() -> str:
    """Say how to get the results back that DVC has removed before it started this stage."""
    stage, lock = os.environ.get("DVC_STAGE"), Path("dvc.lock")
    if stage is None or not lock.exists() or stage not in params.read_yaml(lock).get("stages", {}):
        return ""
    return "; put the old value back and run `dvc repro`: results made here come back from DVC's cache"


def record(error: Exception) -> bool:
    """Leave `error` to the launcher, which shows the first one. Returns False when no launcher listens.

    Must come before this process lets go of the others, which fail then.
    """
    path = os.environ.get(FIRST_FAILURE)
    if path is None:
        return False
    with suppress(FileExistsError), Path(path).open("x") as file:  # one process alone can make it
        file.write(f"{text(error)}\n")
    return True
