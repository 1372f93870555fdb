"""What a stage's process does around its work: usage, one line for what a user can mend, exit status."""

import argparse
import hashlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from cifar_resnet.distributed import World

ROOT = Path(__file__).resolve().parent.parent
OURS = (str(ROOT / "stages"), str(ROOT / "src"))


def run(stage: Callable[[], None], description: str | None) -> None:
    """Call `stage`; end with status 1 and one line for a user's error, a traceback for a bug of ours."""
    parser = argparse.ArgumentParser(description=description, epilog="Settings are in params.yaml.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    arguments = parser.parse_args()
    try:
        stage()
    except (ValueError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = last.filename.startswith(OURS) and (last.line or "").startswith("raise ")
        # A ValueError that we did not raise is a bug; an OSError (full disk, missing file) is the user's.
        if arguments.traceback or not (told or isinstance(error, OSError)):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


class StopRequest:
    """While entered, notes SIGINT and SIGTERM; a second one ends the process at once."""

    def __init__(self, world: "World") -> None:
        self.world, self.received = world, 0

    def __enter__(self) -> Self:
        self.previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received:
            sys.exit(128 + number)
        self.received = number
        if self.world.size == 1:
            self._announce(number)

    def signal(self) -> int:
        """Return the signal that any process of the run has got, or 0; all have to ask equally often."""
        number = self.world.highest(self.received)
        if number and self.world.size > 1 and self.world.rank == 0:
            self._announce(number)
        return number

    def follow(self, steps: Iterable[object]) -> None:
        """Go through `steps` beside the process that saves, and stop where it does."""
        for _ in steps:
            if number := self.signal():
                raise SystemExit(128 + number)

    def _announce(self, number: int) -> None:
        name = signal.Signals(number).name
        print(f"{name}: saving the state and stopping; once more stops at once", file=sys.stderr)


def code_digest() -> str:
    """Return the SHA-256 of this project's modules that the process has loaded."""
    paths = {getattr(module, "__file__", None) or "" for module in sys.modules.values()}
    ours = [Path(path) for path in sorted(paths) if path.startswith(OURS)]
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in ours)).hexdigest()
