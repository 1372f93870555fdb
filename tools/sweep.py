"""Run recipes as DVC experiments, several seeds each, in DVC's queue; then say what came out.

A recipe is a file with values that differ from params.yaml (recipes/*.yaml), or from the recipes that it
names as its `base`, of which later ones go before earlier ones. Without `--test` the pipeline stops after
training, so that choices cannot be made on the test images.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tools import machine, results, scratch

RUNNING, DONE, FAILED = "Running", "Success", "Failed"
SECONDS = 5  # between looks at the queue: each takes the better part of a second of a core
PATIENCE = 24  # looks at a queue without a worker or a run, about two minutes
RECIPES = Path("recipes")
EPOCH = re.compile(r"^epoch .*  ([\d.]+) s  ", re.MULTILINE)  # as stages.progress prints it
RESUMED = "resuming this run after"  # as stages.resume prints it


def dvc(*arguments: str) -> str:
    """Run DVC in the working folder and return what it prints."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: dvc {' '.join(arguments)} ended with status {done.returncode}")
    return done.stdout


def settings(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value, as `dvc exp run --set-param` takes them, for each value of nested `changes`."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value).strip('"')


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested values of both, those of `above` where both have one."""
    merged = dict(below)
    for name, value in above.items():
        under = below.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[name] = overlaid(under, value)
        else:
            merged[name] = value
    return merged


def read_recipe(path: Path) -> dict[str, Any]:
    """Return a recipe's nested values, laid over those of the recipes that it names as its `base`."""
    recipe = YAML(typ="safe").load(path) or {}
    values: dict[str, Any] = {}
    for base in recipe.pop("base", []):
        values = overlaid(values, read_recipe(path.parent / base))
    return overlaid(values, recipe)


def title(recipe: Path) -> str:
    """Return a recipe's name: its path in recipes/ with dashes, or its file's name if it is elsewhere."""
    inside = recipe.absolute().is_relative_to(RECIPES.absolute())
    path = recipe.absolute().relative_to(RECIPES.absolute()) if inside else Path(recipe.name)
    return "-".join(path.with_suffix("").parts)


def experiments(recipes: list[Path], seeds: int, test: bool) -> dict[Path, dict[str, list[str]]]:
    """Return, for each recipe, its experiments by name with their arguments for `dvc exp run`."""
    found: dict[Path, dict[str, list[str]]] = {}
    for recipe in recipes:
        values, targets = list(settings(read_recipe(recipe))), [] if test else ["train"]
        found[recipe] = {}
        for seed in range(seeds):
            changes = [f"--set-param={name}={value}" for name, value in [*values, ("train.seed", seed)]]
            found[recipe][f"{title(recipe)}-{seed}"] = [*changes, *targets]
    return found


def forget(names: Iterable[str]) -> None:
    """Remove earlier experiments of these names."""
    if old := sorted(set(dvc("exp", "list", "--name-only").split()).intersection(names)):
        dvc("exp", "remove", *old)


def enqueue(runs: Mapping[str, list[str]]) -> None:
    """Put experiments, by name with their arguments, into DVC's queue."""
    for words in map(str.split, dvc("queue", "status").splitlines()):
        for name in runs.keys() & set(words):
            if words[-1] == RUNNING:
                sys.exit(f"error: {name} is running; `dvc queue kill --force {name}` ends it, dead or alive")
            dvc("queue", "remove", name)  # of an earlier sweep, whose end is not this one's
    forget(runs)
    for name, arguments in runs.items():
        dvc("exp", "run", "--queue", "--name", name, *arguments)


def executing() -> bool:
    """Return whether DVC runs an experiment of the queue of the working folder.

    Not the same as having a worker: one that was told to stop, be it by a message left over from a killed
    worker's time, no longer counts as one, but still ends its run.
    """
    folder = str(Path(".dvc/tmp").resolve())
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return any("exec-run" in words and any(word.startswith(folder) for word in words) for words in commands)


def wait(names: set[str]) -> set[str]:
    """Wait until the queue has finished these experiments, a line for each; return those that failed."""
    ended: dict[str, str] = {}
    alone = 0
    while set(ended) != names:
        time.sleep(SECONDS)
        status = dvc("queue", "status")
        for words in map(str.split, status.splitlines()):
            for name in names.intersection(words) - set(ended):
                if words[-1] in (DONE, FAILED):
                    ended[name] = words[-1]
                    print(f"{name}: {words[-1].lower()}", flush=True)
        alone = alone + 1 if "0 active, 0 idle" in status and not executing() else 0
        if alone == PATIENCE and set(ended) != names:
            sys.exit("error: no worker takes the experiments in the queue; `dvc queue start` starts one")
    return {name for name, how in ended.items() if how == FAILED}


def metrics(names: set[str], test: bool, log: Callable[[str], str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the metrics of finished experiments by name, then by stage, with the minutes of training.

    Without `test` those of the test images are left out: they are of the commit that was checked out, not of
    the experiment. `log` returns what the experiment of a name has printed.
    """
    stages = ("train", "test") if test else ("train",)
    found = {}
    for commit in json.loads(dvc("exp", "show", "--json")):
        for experiment in commit["experiments"] or []:
            name, revs = experiment["name"], experiment["revs"]
            if name in names and revs and revs[0]["data"]:
                files = revs[0]["data"]["metrics"]
                run = {stage: files[f"metrics/{stage}.json"].get("data") for stage in stages}
                found[name] = {stage: values for stage, values in run.items() if values}
                found[name]["train"]["minutes"] = minutes(log(name))
    return found


def minutes(log: str) -> float | None:
    """Return the minutes of a run's epochs; None for one that began in another log, or was in DVC's cache."""
    seconds = [float(value) for value in EPOCH.findall(log)]
    return sum(seconds) / 60 if seconds and RESUMED not in log else None


def commit() -> str:
    """Return the commit that is checked out, with `-dirty` when the files differ from it."""
    return scratch.git(Path(), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip()


def write(
    groups: Mapping[Path, Iterable[str]],
    at: str,
    test: bool,
    hardware: Mapping[str, Any],
    log: Callable[[str], str],
) -> None:
    """Write what the experiments of each recipe came to, and print it; `at` is the commit that they ran."""
    found = metrics({name for group in groups.values() for name in group}, test, log)
    sweeps = {}
    for recipe, group in groups.items():
        sweeps[title(recipe)] = {
            "recipe": read_recipe(recipe),
            "commit": at,
            "hardware": hardware,
            "runs": {name: found[name] for name in group},
        }
    results.RESULTS.mkdir(exist_ok=True)
    for name, sweep in sweeps.items():
        (results.RESULTS / f"{name}.json").write_text(json.dumps(sweep, indent=1) + "\n")
    print("\naccuracy in %: mean (standard deviation, half of the 95 % interval of the mean)\n")
    print(results.table(sweeps))


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every way to run a sweep has to know."""
    arguments = argparse.ArgumentParser(prog=f"python -m tools.{name}", description=description)
    arguments.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    arguments.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default: %(default)s)")
    arguments.add_argument(
        "--test", action="store_true", help="also evaluate on the test images: once, at the end"
    )
    return arguments


def main() -> None:
    """Queue, run, wait, tell."""
    options = parser("sweep", __doc__)
    options.add_argument("--jobs", type=int, default=1, help="how many at a time (default: %(default)s)")
    arguments = options.parse_args()
    groups = experiments(arguments.recipes, arguments.seeds, arguments.test)
    runs = {name: words for group in groups.values() for name, words in group.items()}
    enqueue(runs)
    at = commit()
    # Not through a pipe, which the workers would hold open until they end.
    start = [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(arguments.jobs)]
    subprocess.run(start, check=True)
    if failed := sorted(wait(set(runs))):
        sys.exit(
            f"error: {', '.join(failed)} failed; `dvc queue logs {failed[0]}` says why, and the same command"
            " again takes up what was stopped"
        )
    write(groups, at, arguments.test, machine.describe(), partial(dvc, "queue", "logs"))


if __name__ == "__main__":
    main()
