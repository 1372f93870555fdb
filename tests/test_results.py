"""The page of results is what the runs came to."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tools import ablation, recipes, results, scratch, tables

HARDWARE = {"device": "cpu x86_64", "processor": "P", "instructions": "I", "torch": "2", "python": "3"}


def sweep(accuracies: list[float], test: bool = False, **facts: Any) -> dict[str, Any]:
    runs = {
        f"it-{seed}": {
            "data": {"train_images": 2000, "val_images": 1000, "test_images": 10_000},
            "train": {"val_accuracy": value, "train_accuracy": value},
            **({"test": {"test_accuracy": value - 0.01}} if test else {}),
            "minutes": 2.0,
            "interruptions": seed,
            "hardware": HARDWARE,
        }
        | facts
        for seed, value in enumerate(accuracies)
    }
    return {"command": "C", "recipe": {}, "commit": "0123456789", "runs": runs}


def cells(table: str) -> list[list[str]]:
    """The lines of a Markdown table without its heads."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_is_made_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch.ROOT)
    assert results.DOCUMENT.read_text() == results.page(), "run `python -m tools.results`"


def test_the_readme_has_the_measured_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch.ROOT)
    readme = Path("README.md").read_text()
    found = results.BLOCK.search(readme)
    assert found is not None
    assert found[0] == results.block(), "run `python -m tools.results`"
    quick = json.loads(Path("results/quick.json").read_text())["runs"]["quick-0"]["test"]
    numbers = [100 * quick[f"test_{name}"] for name in ("accuracy", "ci_low", "ci_high")]
    assert "**{:.2f}** ({:.2f} to {:.2f})".format(*numbers) in readme
    duplicates = json.loads(Path("metrics/duplicates.json").read_text())["duplicates"]
    assert f"({duplicates} of CIFAR-10's 10,000," in readme


def test_the_interval_over_seeds_is_students() -> None:
    deviation = np.std([90, 91, 93], ddof=1)
    half = 4.302653 * deviation / math.sqrt(3)  # t of 97.5 %, 2 degrees of freedom
    expected = f"{274 / 3 - half:.2f} to {274 / 3 + half:.2f} (standard deviation {deviation:.2f})"
    assert tables.over_seeds([0.90, 0.91, 0.93]) == expected
    assert tables.over_seeds([0.9]) == "one seed"


def test_the_interval_over_images_is_wilsons() -> None:
    z, n, p = 1.959964, 10_000, 0.9201
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert tables.over_images(p, n) == f"{100 * low:.2f} to {100 * high:.2f}"


def test_each_recipe_says_what_it_reached_and_how_it_was_run() -> None:
    sweeps = {"quick": sweep([0.9], test=True), "tuned": sweep([0.91, 0.93])}
    assert [line[:3] + line[4:5] for line in cells(tables.accuracies(sweeps))] == [
        ["quick", "validation (1,000)", "90.00", "1"],
        ["quick", "test (10,000)", "89.00", "1"],
        ["tuned", "validation (1,000)", "92.00", "2"],
    ]
    hardware = "P, I, PyTorch 2, Python 3"
    assert cells(tables.circumstances(sweeps)) == [
        ["quick", "1", "`C`", "0123456", hardware, "2 (of 1 runs)", "0"],
        ["tuned", "2", "`C`", "0123456", hardware, "2 (of 2 runs)", "1"],
    ]
    unknown = {"old": sweep([0.9], minutes=None, interruptions=None, hardware=None)}
    assert cells(tables.circumstances(unknown))[0][4:] == ["not known"] * 3


def test_comparisons_with_one_control_hold_at_once() -> None:
    sweeps = {"all": sweep([0.50, 0.54]), "less": sweep([0.30, 0.31]), "near": sweep([0.51])}
    found = ablation.samples(sweeps)
    ends = ablation.differences(found)
    pooled = math.sqrt((4 * 2 + 0.5) / 2)  # of (50, 54) and (30, 31), in points
    assert ablation.deviation(found) == pytest.approx(pooled)
    dunnett = stats.dunnett([30, 31], [51], control=[50, 54], rng=0).confidence_interval()
    assert ends["less"] == pytest.approx((dunnett.low[0], dunnett.high[0]))
    alone = stats.t.ppf(0.975, 2) * pooled  # of one comparison of two with two
    assert -21.5 - ends["less"][0] > alone, "wider than an interval that holds by itself"
    readings = ablation.readings(found, ends)
    assert readings == {"better": {}, "worse": {"less": -21.5}, "within chance": {"near": -1}}
    assert [line[0] for line in cells(ablation.table(sweeps, ends))] == ["all", "near", "less"]
    assert ablation.differences(ablation.samples({"all": sweep([0.5]), "less": sweep([0.3])})) == {}


def test_a_recipe_that_was_changed_after_its_runs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch.ROOT)
    sweeps = results.read()
    del sweeps["quick"]["recipe"]["train"]["label_smoothing"]
    sweeps["quick"]["recipe"]["train"]["epochs"] = 1
    assert results.outdated(sweeps)["quick"] == ["train.epochs", "train.label_smoothing"]
    assert results.outdated({"tuned": {"recipe": recipes.read_recipe(Path("recipes/tuned.yaml"))}}) == {}
