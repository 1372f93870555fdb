"""What an experiment came to: its metrics, and what train has noted of its time and its hardware."""

import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tools.experiment import Experiment

Notes = list[dict[str, Any]]  # lines of train.jsonl


def outcome(experiment: Experiment, test: bool) -> tuple[dict[str, Any], Notes]:
    """Return the metrics of a finished experiment, its minutes and so on; and what train noted of it.

    Without `test` the metrics of the test images are left out: they are of the commit that was checked out.
    """
    stages = ("data", "train", "test") if test else ("data", "train")
    found = {stage: json.loads(experiment.show(f"metrics/{stage}.json")) for stage in stages}
    history = pd.read_csv(io.StringIO(experiment.show("plots/history.csv")))
    facts, notes = training(read_log(experiment.logs / "train.jsonl"), history)
    return {**found, **facts}, notes


def read_log(path: Path) -> Notes:
    """Return the lines of a train.jsonl; none when it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def training(notes: Notes, history: pd.DataFrame) -> tuple[dict[str, Any], Notes]:
    """Return the minutes of a run, how often it was resumed, what its last process ran on; and its lines.

    `notes`: the lines of train.jsonl, of earlier runs too. A run begins with the line of a process that did
    not resume; the last one whose epochs have the training losses of `history` counts. Minutes are wall time,
    from the first to the last line of each process. All is None, and there are no lines, when the log lacks
    an epoch, as when the run's result was in DVC's cache.
    """
    for run in reversed(_split(notes, lambda line: line.get("resumed") is False)):
        processes = _split(run, lambda line: "resumed" in line)
        losses = {line["epoch"]: line["train_loss"] for line in run if "train_loss" in line}
        if np.allclose(history["epoch"].map(losses), history["train_loss"], rtol=0, atol=1e-9):  # JSON rounds
            minutes = sum(lines[-1]["time"] - lines[0]["time"] for lines in processes) / 60
            hardware = {key: fact for key, fact in processes[-1][0].items() if key not in ("resumed", "time")}
            return {"minutes": minutes, "interruptions": len(processes) - 1, "hardware": hardware}, run
    return dict.fromkeys(("minutes", "interruptions", "hardware")), []


def _split(notes: Notes, begins: Callable[[dict[str, Any]], bool]) -> list[Notes]:
    """Return `notes` in parts that each begin with a line for which `begins` is true."""
    starts = [number for number, line in enumerate(notes) if begins(line)]
    return [notes[start:end] for start, end in pairwise([*starts, len(notes)])]
