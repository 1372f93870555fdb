"""A signal stops all processes of a run at the end of the same step; then stages/train.py saves and exits."""

import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Self

from cifar_resnet.process import command
from cifar_resnet.training.distributed.world import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """While entered, notes SIGINT, SIGTERM and SIGHUP; a second one ends the process at once."""

    def __init__(self, world: World) -> None:
        self.world, self.received = world, 0

    def __enter__(self) -> Self:
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        self.previous = {number: signal.signal(number, self._note) for number in heard}
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
        number = self.world.all_reduce_max(self.received)
        if number and self.world.size > 1 and self.world.rank == 0:
            self._announce(number)
        return number

    def run_until_stopped(self, steps: Iterable[object]) -> None:
        """Go through `steps` beside the process that saves, and stop where it does."""
        for _ in steps:
            if number := self.signal():
                raise SystemExit(128 + number)

    def _announce(self, number: int) -> None:
        name = signal.Signals(number).name
        with command.unread():
            print(f"{name}: saving a checkpoint and stopping; once more stops at once", file=sys.stderr)
