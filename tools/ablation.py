"""Many recipes beside one: the validation accuracies of recipes/ablation/."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tools.tables import Sweep, between, markdown, over_images, values

PREFIX, CONTROL = "ablation-", "all"  # in the names of the sweeps; the recipe that the others are beside
Sample = NDArray[np.float64]  # validation accuracies of a recipe's runs, in %


def of_ablation(sweeps: dict[str, Sweep]) -> dict[str, Sweep]:
    """Return the sweeps of that folder by their names in it."""
    return {name.removeprefix(PREFIX): sweeps[name] for name in sweeps if name.startswith(PREFIX)}


def samples(sweeps: dict[str, Sweep]) -> dict[str, Sample]:
    """Return the validation accuracies of each recipe, the highest mean first."""
    found = {name: 100 * np.array(values(sweep, "train", "val_accuracy")) for name, sweep in sweeps.items()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1].mean()))


def deviation(found: dict[str, Sample]) -> float | None:
    """Return the standard deviation of one run, pooled over the recipes; None if each has one run."""
    freedom = sum(len(sample) - 1 for sample in found.values())
    squares = sum(((sample - sample.mean()) ** 2).sum() for sample in found.values())
    return float(np.sqrt(squares / freedom)) if freedom else None


def differences(found: dict[str, Sample]) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each recipe's difference from `CONTROL`, in points: all hold at once.

    Dunnett 1955, https://doi.org/10.1080/01621459.1955.10501294. Empty if each recipe has one run.
    """
    others = [name for name in found if name != CONTROL]
    if deviation(found) is None or not others:
        return {}
    # A generator of its own, because SciPy integrates with random points: the same digits every time.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # of two equal accuracies
        test = stats.dunnett(*(found[name] for name in others), control=found[CONTROL], rng=0)
    ends = test.confidence_interval(0.95)
    return {name: (float(ends.low[i]), float(ends.high[i])) for i, name in enumerate(others)}


def reading(ends: tuple[float, float]) -> str:
    """Return what an interval of a difference says."""
    low, high = ends
    return "better" if low > 0 else "worse" if high < 0 else "within chance"


def readings(found: dict[str, Sample], ends: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Return the differences from `CONTROL` by name of the recipes that are better, worse, within chance."""
    says: dict[str, dict[str, float]] = {"better": {}, "worse": {}, "within chance": {}}
    for name, interval in ends.items():
        says[reading(interval)][name] = float(found[name].mean() - found[CONTROL].mean())
    return says


def table(sweeps: dict[str, Sweep], ends: dict[str, tuple[float, float]]) -> str:
    """Return a Markdown table of the recipes, the best first. `ends`: of `differences`."""
    found = samples(sweeps)
    rows = []
    for name, sample in found.items():
        against, interval, says = "", "", "the control" if name == CONTROL else ""
        if name != CONTROL:
            against = f"{sample.mean() - found[CONTROL].mean():+.2f}"
        if name in ends:
            interval, says = between(*ends[name], "{:+.2f}"), reading(ends[name])
        images = next(iter(sweeps[name]["runs"].values()))["data"]["val_images"]
        rows.append(
            {
                "recipe": name,
                "seeds": str(len(sample)),
                "validation, %": f"{sample.mean():.2f}",
                "95 % over images": over_images(float(sample.mean()) / 100, images),
                f"against `{CONTROL}`, points": against,
                "95 %, all rows at once": interval,
                "that is": says,
            }
        )
    return markdown(rows, right=("seeds", "validation, %", f"against `{CONTROL}`, points"))
