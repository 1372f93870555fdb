"""Minutes, interruptions and hardware of a run, from what train has noted."""

from typing import Any

import pandas as pd

from tools.outcome import training

HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [2.00000000000001, 1.5, 1.25], "lr": 0.1})
UNKNOWN = {"minutes": None, "interruptions": None, "hardware": None}


def start(resumed: bool, threads: int = 1) -> dict[str, Any]:
    return {"resumed": resumed, "device": "cpu", "threads": threads, "cudnn": None}


def epoch(number: int, seconds: float, loss: float | None = None) -> dict[str, Any]:
    known = loss if loss is not None else round(HISTORY["train_loss"][number - 1], 10)
    return {"epoch": number, "train_loss": known, "seconds": seconds, "images_per_second": 9.0}


def test_the_epochs_of_all_processes_count() -> None:
    first = [start(False), {"first_step_seconds": 3.0}, epoch(1, 60)]
    second, third = [start(True, threads=2), epoch(2, 30)], [start(True, threads=4), epoch(3, 30)]
    found = training([*first, *second, *third], HISTORY)
    assert (found["minutes"], found["interruptions"]) == (2, 2)
    assert found["hardware"] == {"device": "cpu", "threads": 4, "cudnn": None}


def test_an_epoch_that_was_lost_with_its_state_counts_once() -> None:
    notes = [start(False), epoch(1, 60), epoch(2, 60), start(True), epoch(2, 30), epoch(3, 30)]
    assert training(notes, HISTORY)["minutes"] == 2


def test_earlier_runs_of_the_same_name_do_not_count() -> None:
    other = [start(False), epoch(1, 600, loss=3), start(True), *(epoch(n, 600, loss=3) for n in (2, 3))]
    this = [start(False), *(epoch(n, 20) for n in (1, 2, 3))]
    found = training([*other, *this], HISTORY)
    assert (found["minutes"], found["interruptions"]) == (1, 0)
    found = training([*this, *other], HISTORY)
    assert (found["minutes"], found["interruptions"]) == (1, 0)


def test_a_run_from_the_cache_without_its_log_has_no_minutes() -> None:
    assert training([], HISTORY) == UNKNOWN
    other = [start(False), *(epoch(n, 600, loss=3) for n in (1, 2, 3))]
    assert training(other, HISTORY) == UNKNOWN
    assert training([start(False), epoch(1, 9), epoch(2, 9)], HISTORY) == UNKNOWN
