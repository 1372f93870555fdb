"""What an experiment came to: its metrics, and what train has noted of its time and its hardware."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tools.experiment import Experiment


def outcome(experiment: Experiment, test: bool) -> dict[str, Any]:
    """Return the metrics of a finished experiment by stage, with its minutes, interruptions and hardware.

    Without `test` those of the test images are left out: they are of the commit that was checked out, not of
    the experiment.
    """
    stages = ("data", "train", "test") if test else ("data", "train")
    found = {stage: json.loads(experiment.show(f"metrics/{stage}.json")) for stage in stages}
    history = pd.read_csv(io.StringIO(experiment.show("plots/history.csv")))
    return {**found, **training(read_log(experiment.logs / "train.jsonl"), history)}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a train.jsonl; none when it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def training(notes: list[dict[str, Any]], history: pd.DataFrame) -> dict[str, Any]:
    """Return the minutes of a run's epochs, how often it was resumed, and what its last process ran on.

    `notes`: the lines of train.jsonl, of earlier runs under the same name too. An epoch is this run's when
    its training loss is the one in `history`. All is None when the log lacks an epoch, as when the run's
    result was in DVC's cache.
    """
    table = pd.DataFrame(notes)
    if not {"resumed", "train_loss"} <= set(table):
        return dict.fromkeys(("minutes", "interruptions", "hardware"))
    table["run"] = table["resumed"].eq(False).cumsum()  # lines of epochs have neither
    epochs = table.dropna(subset=["epoch"]).merge(history, on="epoch", suffixes=("", "_kept"))
    same = np.isclose(epochs["train_loss"], epochs["train_loss_kept"], rtol=0, atol=1e-9)  # JSON rounds
    epochs = epochs[same].drop_duplicates("epoch", keep="last")
    if len(epochs) < len(history):
        return dict.fromkeys(("minutes", "interruptions", "hardware"))
    starts = table[table["resumed"].notna() & (table["run"] == epochs["run"].max())]
    return {
        "minutes": float(epochs["seconds"].sum() / 60),
        "interruptions": int(starts["resumed"].eq(True).sum()),
        "hardware": {name: value for name, value in notes[starts.index[-1]].items() if name != "resumed"},
    }
