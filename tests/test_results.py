"""The page of results is what the runs came to."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tools import results, scratch

HARDWARE = {"device": "cpu x86_64", "processor": "P", "torch": "2", "python": "3"}


def write(folder: Path, name: str, accuracies: list[float], test: bool = False) -> None:
    runs = {
        f"{name}-{seed}": {"train": {"val_accuracy": value, "minutes": 2}}
        | ({"test": {"accuracy": value - 0.01}} if test else {})
        for seed, value in enumerate(accuracies)
    }
    (folder / "results").mkdir(exist_ok=True)
    (folder / f"results/{name}.json").write_text(json.dumps({"hardware": HARDWARE, "runs": runs}))


def test_the_interval_is_students() -> None:
    mean, deviation, half = results.interval([90.0, 91.0, 93.0])
    assert (mean, deviation) == pytest.approx((274 / 3, np.std([90, 91, 93], ddof=1)))
    assert half == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)  # t of 97.5 %, 2 degrees


def test_the_results_page_is_made_of_the_runs() -> None:
    document = results.DOCUMENT.read_text()
    assert results.rendered(document) == document, "run `python -m tools.results`"


def test_the_readme_has_the_measured_numbers() -> None:
    readme = (scratch.ROOT / "README.md").read_text()
    found = json.loads((scratch.ROOT / "metrics/duplicates.json").read_text())["near_duplicates"]
    assert f"({found} of CIFAR-10's 10,000)" in readme
    (accuracy,) = results.values(results.read(scratch.ROOT / "results/quick.json"), "test", "accuracy")
    assert f"for two CPU cores: {100 * accuracy:.1f} % of the test images right" in readme


def test_full_runs_and_ablation_are_in_their_own_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.full() == results.ablation() == results.NOTHING
    write(tmp_path, "quick", [0.9], test=True)
    write(tmp_path, "tuned", [0.91, 0.93])
    write(tmp_path, "ablation-all", [0.5, 0.6])
    write(tmp_path, "ablation-less", [0.47, 0.55])
    assert results.full().splitlines()[2:] == [
        "| quick | 1 | 90.00 | 89.00 |  | 2 | P, PyTorch 2, Python 3 |",
        "| tuned | 2 | 92.00 (sd 1.41, ±12.71) |  |  | 2 | P, PyTorch 2, Python 3 |",
    ]
    assert results.ablation().splitlines()[0].endswith("over all recipes: 6.40.")
    high = stats.ttest_ind([47, 55], [50, 60]).confidence_interval().high
    lines = ["| all | 2 | 55.00 |  |", f"| less | 2 | 51.00 | -4.00 ±{high + 4:.2f} |"]
    assert results.ablation().splitlines()[4:] == lines
    write(tmp_path, "ablation-less", [0.47])
    high = stats.ttest_ind([47], [50, 60]).confidence_interval().high
    assert results.ablation().splitlines()[-1] == f"| less | 1 | 47.00 | -8.00 ±{high + 8:.2f} |"
    write(tmp_path, "ablation-all", [0.5])
    assert results.ablation().splitlines()[0] == "P, PyTorch 2, Python 3."
    assert results.ablation().splitlines()[-1] == "| less | 1 | 47.00 | -3.00 |"
