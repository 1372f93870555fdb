"""What a command does around its work: usage, one line for what a user can put right, exit status."""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cifar_resnet.files.params import UserError
from cifar_resnet.process import failures


@contextmanager
def one_line(traceback: bool = False) -> Iterator[None]:
    """End with status 1 and one line for a user's error; a bug of ours keeps its traceback.

    `traceback`: show where a user's error came from, too.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # all kinds: whichever it is, a launcher shows the first one alone
        if failures.record(error):
            sys.exit(1)
        if isinstance(error, UserError | OSError) and not traceback:
            sys.exit(failures.text(error))
        raise


def run(stage: Callable[[], None], description: str | None) -> None:
    """Call `stage` as what `python -m stages.NAME` does."""
    parser = argparse.ArgumentParser(description=description, epilog="Settings are in params.yaml.")
    parser.add_argument(failures.TRACEBACK, action="store_true", help="show where an error came from")
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each line at once, in a file too
    with one_line(arguments.traceback):
        stage()
