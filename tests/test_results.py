"""The page of results is what the runs came to, with the minutes and hardware that train has noted."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tools import recipes, results, scratch
from tools.outcome import training

HARDWARE = {"device": "cpu x86_64", "processor": "P", "instructions": "I", "torch": "2", "python": "3"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch.ROOT)


def sweep(accuracies: list[float], test: bool = False, **facts: Any) -> dict[str, Any]:
    facts = {
        "minutes": 2.0,
        "hardware": HARDWARE,
        "data": {"val_images": 1000, "test_images": 10_000},
    } | facts
    runs = {
        f"it-{seed}": {**facts, "train": {"val_accuracy": value}} for seed, value in enumerate(accuracies)
    }
    for run, value in zip(runs.values(), accuracies, strict=True):
        run |= {"test": {"test_accuracy": value - 0.01}} if test else {}
    return {"command": "C", "recipe": {}, "commit": "0123456789" * 4, "runs": runs}


def cells(table: str) -> list[list[str]]:
    """The lines of a Markdown table without its heads."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]


def test_the_page_and_the_readmes_result_are_made_of_the_runs() -> None:
    assert results.DOCUMENT.read_text() == results.page(), "run `python -m tools.results`"
    readme = Path("README.md").read_text()
    found = results.BLOCK.search(readme)
    assert found is not None
    assert found[0] == results.block(), "run `python -m tools.results`"
    quick = json.loads(Path("results/quick.json").read_text())["runs"]["quick-0"]["test"]
    numbers = [100 * quick[f"test_{name}"] for name in ("accuracy", "ci_low", "ci_high")]
    assert "**{:.2f}** ({:.2f} to {:.2f})".format(*numbers) in readme
    assert f"\n{100 * quick['test_accuracy_with_flip']:.2f} %. All its choices" in results.page()
    duplicates = json.loads(Path("metrics/duplicates.json").read_text())["duplicates"]
    assert f"({duplicates} of CIFAR-10's 10,000," in Path("docs/help.md").read_text()


def test_the_interval_over_seeds_is_students() -> None:
    deviation = np.std([90, 91, 93], ddof=1)
    half = 4.302653 * deviation / math.sqrt(3)  # t of 97.5 %, 2 degrees of freedom
    expected = f"{274 / 3 - half:.2f} to {274 / 3 + half:.2f} (standard deviation {deviation:.2f})"
    assert results.over_seeds(pd.Series([0.90, 0.91, 0.93])) == expected
    assert results.over_seeds(pd.Series([0.9])) == "one seed"


def test_each_recipe_says_what_it_reached_and_how_it_was_run() -> None:
    unknown: dict[str, Any] = {"minutes": None, "hardware": None}
    sweeps = {"a": sweep([0.9], test=True), "b": sweep([0.91, 0.93]), "c": sweep([0.9], **unknown)}
    sweeps["b"]["runs"]["it-1"]["minutes"] = None
    sweeps["c"]["commit"] += "-dirty"
    over_images = [results.over_images(*of) for of in ((0.89, 10_000), (0.92, 1000), (0.90, 1000))]
    hardware, over_seeds = "P, I, PyTorch 2, Python 3", results.over_seeds(pd.Series([0.91, 0.93]))
    assert cells(results.table(sweeps)) == [
        ["a", "1", "90.00", "89.00", over_images[0], "one seed", "2", hardware, "0123456"],
        ["b", "2", "92.00", "", over_images[1], over_seeds, "2", hardware, "0123456"],
        ["c", "1", "90.00", "", over_images[2], "one seed", "not known", "not known", "0123456-dirty"],
    ]


def test_a_recipe_that_was_changed_after_its_runs_is_marked() -> None:
    tuned = recipes.read_recipe(Path("recipes/tuned.yaml"))
    earlier = {**tuned, "train": {k: v for k, v in tuned["train"].items() if k != "label_smoothing"}}
    for name, recipe, mark in (("tuned", tuned, ""), ("tuned", earlier, "*"), ("of no file", earlier, "")):
        table = results.table({name: sweep([0.9]) | {"recipe": recipe}})
        assert cells(table)[0][-1] == f"0123456{mark}"


def test_the_figures_of_the_ablation_follow_from_its_runs() -> None:
    found = {
        path.stem.removeprefix("ablation-"): np.array(
            [100 * run["train"]["val_accuracy"] for run in json.loads(path.read_text())["runs"].values()]
        )
        for path in Path("results").glob("ablation-*.json")
    }
    found = dict(sorted(sorted(found.items()), key=lambda pair: -pair[1].mean()))
    others = [name for name in found if name != "all"]
    # A generator of its own, because SciPy integrates with random points.
    test = stats.dunnett(*(found[name] for name in others), control=found["all"], rng=0)
    ends = dict(zip(others, zip(*test.confidence_interval(0.95), strict=True), strict=True))
    expected, apart = [], []
    for name, sample in found.items():
        row = ["", "", "the control"]
        difference = sample.mean() - found["all"].mean()
        if name in ends:
            low, high = ends[name]
            verdict = "better" if low > 0 else "worse" if high < 0 else "not significant"
            row = [f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}", verdict]
            apart += [f"`{name}` ({difference:+.1f})"] * (verdict != "not significant")
        expected.append([name, f"{sample.mean():.2f}", *row])
    text = Path("docs/results.md").read_text().partition("## What each technique")[2]
    assert cells(text[text.index("| recipe") :].partition("\n\n")[0]) == expected
    pooled = math.sqrt(np.mean([sample.var(ddof=1) for sample in found.values()]))  # of as many runs each
    for said in (f"recipes together, {pooled:.2f} points,", f"more than chance:\n{', '.join(apart)}."):
        assert said in text


HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [2.00000000000001, 1.5, 1.25], "lr": 0.1})


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
    minutes = pytest.approx(3 * 12 / 60)  # from the start, compiling and the part of an epoch too
    assert found == {"minutes": minutes, "interruptions": 2, "hardware": {"device": "cpu", "cudnn": None}}


def test_killed_processes_count_and_other_runs_of_the_name_do_not() -> None:
    killed = process(0, False, 2.0, 1.5)[:-1] + process(100, True, 1.5, 1.25, first=2)
    assert training(killed, HISTORY)[0]["minutes"] == pytest.approx((10 + 12) / 60)
    other = process(0, False, 3.0, 3.0, 3.0) + process(100, True)
    this = process(500, False, 2.0, 1.5, 1.25)
    for notes in ([*other, *this], [*this, *other]):
        found, lines = training(notes, HISTORY)
        assert lines == this
        assert (found["minutes"], found["interruptions"]) == (pytest.approx(12 / 60), 0)


def test_a_run_from_the_cache_without_its_log_has_no_minutes() -> None:
    unknown = dict.fromkeys(("minutes", "interruptions", "hardware"))
    for notes in ([], process(0, False, 3.0, 3.0, 3.0), process(0, False, 2.0, 1.5)):
        assert training(notes, HISTORY) == (unknown, [])
