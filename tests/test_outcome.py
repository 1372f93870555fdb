"""Minutes, interruptions and hardware of a run, from what train has noted."""

from typing import Any

import pandas as pd
import pytest

from tools.outcome import training

HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [2.00000000000001, 1.5, 1.25], "lr": 0.1})
UNKNOWN: tuple[dict[str, None], list[Any]] = ({"minutes": None, "interruptions": None, "hardware": None}, [])


def process(
    begin: float, resumed: bool, *losses: float, first: int = 1, **facts: Any
) -> list[dict[str, Any]]:
    """What a process notes that runs for ten seconds, an epoch for each loss, and ends two seconds later."""
    return [
        {"time": begin, "resumed": resumed, "device": "cpu", "cudnn": None, **facts},
        {"time": begin + 3, "first_step_seconds": 3.0},
        *({"time": begin + 10, "epoch": first + n, "train_loss": loss} for n, loss in enumerate(losses)),
        {"time": begin + 12, "ended": "status 143"},
    ]


def test_the_wall_time_of_all_processes_counts() -> None:
    notes = process(0, False, 2.0) + process(100, True, threads=2) + process(200, True, 1.5, 1.25, first=2)
    found, lines = training(notes, HISTORY)
    assert lines == notes
    assert found == {
        "minutes": pytest.approx(3 * 12 / 60),  # from the start, compiling and the part of an epoch too
        "interruptions": 2,
        "hardware": {"device": "cpu", "cudnn": None},
    }


def test_of_a_killed_process_the_time_to_its_last_line_counts() -> None:
    notes = process(0, False, 2.0, 1.5)[:-1] + process(100, True, 1.5, 1.25, first=2)
    assert training(notes, HISTORY)[0]["minutes"] == pytest.approx((10 + 12) / 60)


def test_other_runs_of_the_same_name_do_not_count() -> None:
    other = process(0, False, 3.0, 3.0, 3.0) + process(100, True)
    this = process(500, False, 2.0, 1.5, 1.25)
    for notes in ([*other, *this], [*this, *other]):
        found, lines = training(notes, HISTORY)
        assert lines == this
        assert (found["minutes"], found["interruptions"]) == (pytest.approx(12 / 60), 0)


def test_a_run_from_the_cache_without_its_log_has_no_minutes() -> None:
    assert training([], HISTORY) == UNKNOWN
    assert training(process(0, False, 3.0, 3.0, 3.0), HISTORY) == UNKNOWN
    assert training(process(0, False, 2.0, 1.5), HISTORY) == UNKNOWN
