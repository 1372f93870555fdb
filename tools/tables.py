"""Markdown tables of what sweeps of recipes came to."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cifar_resnet.evaluation.metrics import accuracy_interval
from cifar_resnet.process import machine

Sweep = dict[str, Any]  # what tools.sweep writes: command, recipe, commit, and runs by name
ACCURACIES = [  # stage, metric, words, of which images
    ("train", "val_accuracy", "validation", "val"),
    ("test", "test_accuracy", "test", "test"),
    ("test", "test_accuracy_with_flip", "test, with mirror images", "test"),
]


def markdown(rows: list[dict[str, str]], right: tuple[str, ...] = ()) -> str:
    """Return a Markdown table; the columns of `right` are numbers."""
    table = pd.DataFrame(rows)
    sides = ["right" if column in right else "left" for column in table]
    return str(table.to_markdown(index=False, tablefmt="github", disable_numparse=True, colalign=sides))


def values(sweep: Sweep, stage: str, metric: str) -> list[float]:
    """Return a metric of every run, in the order of the seeds; empty when a run lacks it."""
    found = [run.get(stage, {}).get(metric) for run in sweep["runs"].values()]
    return [] if None in found else found


def between(low: float, high: float, form: str = "{:.2f}") -> str:
    """Return an interval in words."""
    return f"{form.format(low)} to {form.format(high)}"


def over_images(mean: float, count: int) -> str:
    """Return the 95 % interval, in %, of an accuracy on `count` images."""
    low, high = accuracy_interval(mean, count)
    return between(100 * low, 100 * high)


def over_seeds(sample: list[float]) -> str:
    """Return the 95 % interval, in %, of the mean over seeds: Student's."""
    if len(sample) < 2:
        return "one seed"
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=np.mean(sample), scale=stats.sem(sample))
    return f"{between(100 * low, 100 * high)} (standard deviation {100 * np.std(sample, ddof=1):.2f})"


def accuracies(sweeps: dict[str, Sweep]) -> str:
    """Return a table with a line for each accuracy of each recipe."""
    rows = []
    for name, sweep in sweeps.items():
        images = next(iter(sweep["runs"].values()))["data"]
        for stage, metric, words, split in ACCURACIES:
            if sample := values(sweep, stage, metric):
                rows.append(
                    {
                        "recipe": name,
                        "images": f"{words} ({images[f'{split}_images']:,})",
                        "accuracy, %": f"{100 * np.mean(sample):.2f}",
                        "95 % over images": over_images(float(np.mean(sample)), images[f"{split}_images"]),
                        "seeds": str(len(sample)),
                        "95 % over seeds": over_seeds(sample),
                    }
                )
    return markdown(rows, right=("accuracy, %", "seeds"))


def circumstances(sweeps: dict[str, Sweep]) -> str:
    """Return a table that says how each recipe was run, and on what."""
    rows = []
    for name, sweep in sweeps.items():
        runs = list(sweep["runs"].values())
        minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
        ran_on = {machine.line(run["hardware"]) for run in runs if run["hardware"]}
        resumed = [run["interruptions"] for run in runs if run["interruptions"] is not None]
        rows.append(
            {
                "recipe": name,
                "seeds": str(len(runs)),
                "command": f"`{sweep['command']}`",
                "commit": sweep["commit"][:7] + "-dirty" * sweep["commit"].endswith("-dirty"),
                "hardware": "; ".join(sorted(ran_on)) or "not known",
                "minutes of a run": f"{np.mean(minutes):.3g} (of {len(minutes)} runs)"
                if minutes
                else "not known",
                "times resumed": str(sum(resumed)) if len(resumed) == len(runs) else "not known",
            }
        )
    return markdown(rows, right=("seeds",))
