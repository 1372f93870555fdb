"""Saving the resume state of ResNet50: how long training waits, and how long the writing takes behind it."""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, synchronize
from cifar_resnet.network import device
from cifar_resnet.process import checkpoint
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state

REPEATS = 5


def now() -> float:
    """Return the time when the device has done all it was given."""
    synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and report."""
    target = device.select_device("auto")
    config = CONFIG.model_copy(update={"batch_size": 32})
    data = noise(64, target)
    state = new_state(config, 10, target)
    for _, record in fit(state, config, data, data, device.autocast_dtype("auto", target)):
        if record:  # moments and best weights are there from now on
            break
    seconds: dict[str, list[float]] = {
        "waiting for the disk": [],
        "in the background": [],
        "  its writing": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(REPEATS):
            clock = [now()]
            checkpoint.save(folder, state.state_dict())
            clock.append(now())
            with checkpoint.Saver(folder, target) as saver:
                saver.save(state.state_dict())
                clock.append(now())
            clock.append(now())
            for taken, (start, end) in zip(seconds.values(), itertools.pairwise(clock), strict=True):
                taken.append(end - start)
        size = sum(path.stat().st_size for path in folder.iterdir()) / checkpoint.KEPT / 1e6
    rows: list[Row] = [
        {"save": what, "seconds": statistics.median(s), "lowest": min(s), "highest": max(s)}
        for what, s in seconds.items()
    ]
    report("saving", f"resume state of {size:.0f} MB, with the last synced to disk", rows)


if __name__ == "__main__":
    main()
