"""What sweeps of recipes came to: results/*.json, and the tables of docs/results.md made from them."""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from tools import machine
from tools.scratch import ROOT

RESULTS = Path("results")
DOCUMENT = ROOT / "docs" / "results.md"
BLOCK = re.compile(r"<!-- results: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
ABLATION, BASE = "ablation-", "all"  # the recipes of that folder are compared with this one of them
NOTHING = "Not measured yet.\n"
HEADS = "| recipe | seeds | validation | test | test, with mirror images | training, minutes | hardware |"
Sweep = dict[str, Any]  # recipe: values; commit; hardware: of tools.machine; runs: metrics by stage, by name


def read(path: Path) -> Sweep:
    """Return what a sweep wrote."""
    sweep: Sweep = json.loads(path.read_text())
    return sweep


def values(sweep: Sweep, stage: str, metric: str) -> list[float]:
    """Return a metric of every run, in the order of the seeds; empty when a run lacks it."""
    found = [run.get(stage, {}).get(metric) for run in sweep["runs"].values()]
    return [] if None in found else found


def interval(sample: list[float]) -> tuple[float, float, float]:
    """Return the mean, the standard deviation and half the 95 % interval of the mean (Student's t)."""
    if len(sample) < 2:
        return sample[0], float("nan"), float("nan")
    deviation = statistics.stdev(sample)
    half = float(stats.t.ppf(0.975, len(sample) - 1)) * deviation / len(sample) ** 0.5
    return statistics.fmean(sample), deviation, half


def percent(sample: list[float]) -> str:
    """Return accuracies as text, with standard deviation and interval where there are several."""
    if not sample:
        return ""
    mean, deviation, half = interval([100 * value for value in sample])
    return f"{mean:.2f}" + (f" (sd {deviation:.2f}, ±{half:.2f})" if len(sample) > 1 else "")


def row(name: str, sweep: Sweep) -> str:
    """Return a line of the Markdown table under `HEADS`."""
    minutes = values(sweep, "train", "minutes")
    cells = [
        name,
        str(len(sweep["runs"])),
        percent(values(sweep, "train", "val_accuracy")),
        percent(values(sweep, "test", "accuracy")),
        percent(values(sweep, "test", "accuracy_with_flip")),
        f"{statistics.fmean(minutes):.0f}" if minutes else "",
        machine.line(sweep["hardware"]),
    ]
    return f"| {' | '.join(cells)} |"


def table(sweeps: dict[str, Sweep]) -> str:
    """Return a Markdown table of sweeps by name."""
    lines = [HEADS, "|---|---:|---|---|---|---:|---|", *(row(name, sweep) for name, sweep in sweeps.items())]
    return "\n".join(lines) + "\n"


def full() -> str:
    """The table of the recipes at full size."""
    paths = {path for path in (ROOT / RESULTS).glob("*.json") if not path.stem.startswith(ABLATION)}
    sweeps = {path.stem: read(path) for path in sorted(paths)}
    return table(sweeps) if sweeps else NOTHING


def ablation() -> str:
    """The table of the recipes in ablation/: their validation accuracies beside that of `BASE`.

    Few seeds say little of one recipe's deviation, but all recipes together do: the intervals of the
    differences are Student's, by the standard deviation pooled over the recipes.
    """
    paths = (ROOT / RESULTS).glob(f"{ABLATION}*.json")
    sweeps = {path.stem.removeprefix(ABLATION): read(path) for path in paths}
    if BASE not in sweeps:
        return NOTHING
    samples = {
        name: [100 * value for value in values(sweep, "train", "val_accuracy")]
        for name, sweep in sweeps.items()
    }
    means = {name: statistics.fmean(sample) for name, sample in samples.items()}
    freedom = sum(len(sample) - 1 for sample in samples.values())
    squares = sum((value - means[name]) ** 2 for name, sample in samples.items() for value in sample)
    pooled = (squares / freedom) ** 0.5 if freedom else float("nan")
    deviation = f" Standard deviation of a run, over all recipes: {pooled:.2f}." * (freedom > 0)
    lines = [
        f"{machine.line(sweeps[BASE]['hardware'])}.{deviation}\n",
        f"| recipe | seeds | validation | against `{BASE}`, points |\n|---|---:|---:|---|",
    ]
    for name in sorted(samples, key=lambda name: -means[name]):
        count = len(samples[name])
        half = stats.t.ppf(0.975, freedom) * pooled * (1 / count + 1 / len(samples[BASE])) ** 0.5
        against = (
            "" if name == BASE else f"{means[name] - means[BASE]:+.2f}" + f" ±{half:.2f}" * (freedom > 0)
        )
        lines.append(f"| {name} | {count} | {means[name]:.2f} | {against} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {"full": full, "ablation": ablation}


def rendered(document: str) -> str:
    """Return the page with every table made anew."""
    return BLOCK.sub(
        lambda match: f"<!-- results: {match[1]} -->\n{TABLES[match[1]]()}<!-- end -->", document
    )


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
