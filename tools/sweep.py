"""Run recipes with several seeds each, as DVC experiments; then say what came out.

A recipe is a file with the values that differ from params.yaml (recipes/*.yaml), or from the recipes that it
names as its `base`. Without `--test` the pipeline stops after training, so that choices cannot be made on the
test images. What was stopped or killed goes on when the same command is given again.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType
from typing import Any

from cifar_resnet.files.params import UserError
from tools import results, tables
from tools.experiment import Baseline, Experiment, baseline
from tools.outcome import outcome
from tools.recipes import read_recipe, settings, title, whole

Ended = Iterator[tuple[Experiment, Path | None]]  # each experiment and, if it failed, where it says why


def experiments(recipe: Path, seeds: int, test: bool, start: Baseline) -> list[Experiment]:
    """Return the runs of a recipe, one for each seed from 0."""
    values = [f"{name}={value}" for name, value in settings(read_recipe(recipe))]
    targets = [] if test else ["train"]
    return [
        Experiment(f"{title(recipe)}-{seed}", [*values, f"train.seed={seed}"], targets, start)
        for seed in range(seeds)
    ]


def here(runs: list[Experiment], jobs: int) -> Ended:
    """Run experiments on this machine, `jobs` at a time; yield each when it has ended.

    They share the processor's cores. When this process is interrupted, the runs save their states and stop.
    """
    if jobs > 1:  # more threads than cores wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.run): run for run in runs}
        try:
            for future in as_completed(futures):
                run = futures[future]
                yield run, run.console if future.result() else None
        except BaseException:  # an interrupt among them: nothing may go on behind our back
            pool.shutdown(wait=False, cancel_futures=True)
            for run in runs:
                run.stop()
            raise


def on_cluster(runs: dict[Path, list[Experiment]], arguments: argparse.Namespace) -> Ended:
    """Run experiments as jobs, which ask for as many GPUs as `train.processes` of their recipe says."""
    from tools import cluster  # submitit is an extra

    gpus = {recipe: 0 if arguments.cpu else int(whole(recipe)["train"]["processes"]) for recipe in runs}
    wanted = {run: gpus[recipe] for recipe, group in runs.items() for run in group}
    return cluster.run(wanted, cluster.Cluster(arguments.cluster, arguments.hours, arguments.partition))


def told(ended: Ended) -> dict[Experiment, Path]:
    """Print a line for each experiment as it ends; return those that failed, and where it says why."""
    failed = {}
    for run, why in ended:
        print(f"{run.name}: {'failed' if why else 'done'}", flush=True)
        if why:
            failed[run] = why
    return failed


def write(runs: dict[Path, list[Experiment]], test: bool) -> None:
    """Write results/NAME.json and the log for each recipe, and print the tables of them."""
    sweeps: dict[str, dict[str, Any]] = {}
    for recipe, group in runs.items():
        inside = recipe.absolute().is_relative_to(Path.cwd())
        path = recipe.absolute().relative_to(Path.cwd()) if inside else recipe.name
        found = {run.name: outcome(run, test) for run in group}
        sweep = sweeps[title(recipe)] = {
            "command": f"python -m tools.sweep {path} --seeds {len(group)}{' --test' if test else ''}",
            "recipe": read_recipe(recipe),
            "commit": group[0].start.name,
            "runs": {name: metrics for name, (metrics, _) in found.items()},
        }
        results.write(title(recipe), sweep, {name: notes for name, (_, notes) in found.items()})
    print(f"\n{tables.accuracies(sweeps)}\n\n{tables.circumstances(sweeps)}")


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweep", description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default: %(default)s)")
    parser.add_argument(
        "--test", action="store_true", help="also evaluate on the test images: once, at the end"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time here (default: %(default)s)")
    jobs = parser.add_argument_group("as jobs", "one for each run, from a clone that the nodes see too")
    jobs.add_argument("--cluster", choices=["slurm", "local"], help="local: jobs on this machine")
    jobs.add_argument("--hours", type=float, default=1, help="time limit of a job (default: %(default)s)")
    jobs.add_argument("--partition", help="Slurm's partition")
    jobs.add_argument("--cpu", action="store_true", help="ask for no GPU")
    return parser.parse_args()


def main() -> None:
    """Run, wait, tell."""
    arguments = options()
    start = baseline()
    runs = {
        recipe: experiments(recipe, arguments.seeds, arguments.test, start) for recipe in arguments.recipes
    }
    everything = [run for group in runs.values() for run in group]
    ended = on_cluster(runs, arguments) if arguments.cluster else here(everything, arguments.jobs)
    if failed := told(ended):
        why = "; ".join(f"{run.name} failed, {path} says why" for run, path in failed.items())
        raise UserError(f"{why}; the same command again takes up what was stopped")
    write(runs, arguments.test)


def interrupt(number: int, _: FrameType | None) -> None:
    """End as after Ctrl-C."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command again takes up the runs")
