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
from queue import SimpleQueue
from typing import Any

import torch

from cifar_resnet import params
from cifar_resnet.errors import UserError
from cifar_resnet.process import command
from tools import results
from tools.experiment import LOGS, Baseline, Experiment, baseline
from tools.outcome import outcome
from tools.recipes import read_recipe, recipe_name, settings, with_recipe

Runs = dict[Experiment, int]  # with the GPUs that each needs
Ended = Iterator[tuple[Experiment, Path | None]]  # each experiment and, if it failed, where it says why


def experiments(recipe: Path, seeds: int, test: bool, start: Baseline) -> list[Experiment]:
    """Return the runs of a recipe, one for each seed from 0."""
    name, values, targets = recipe_name(recipe), settings(read_recipe(recipe)), [] if test else ["train"]
    return [
        Experiment(f"{name}-{seed}", [*values, f"train.seed={seed}"], targets, start) for seed in range(seeds)
    ]


def gpu_groups(size: int) -> list[str]:
    """Return the values of CUDA_VISIBLE_DEVICES that give each run `size` GPUs of this machine for itself."""
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0  # the driver may be too old
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(present)))).split(",")[:present]
    return [",".join(visible[at : at + size]) for at in range(0, present - size + 1, size)] if size else []


def run_locally(runs: Runs, jobs: int) -> Ended:
    """Run experiments on this machine, `jobs` at a time; yield each when it has ended.

    Each has GPUs of its own; if there are more jobs than groups of them, they share in turn. Without a GPU
    they share the processor's cores. When this process is interrupted, the runs save their states and stop.
    """
    if jobs > 1:  # more threads than cores wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // jobs)))
    groups, free = gpu_groups(max(runs.values(), default=0)), SimpleQueue[dict[str, str]]()
    for job in range(jobs):
        free.put({"CUDA_VISIBLE_DEVICES": groups[job % len(groups)]} if groups else {})

    def run_one(run: Experiment) -> Path | None:
        place = free.get()
        try:
            return run.run(**place)
        finally:
            free.put(place)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_one, run): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # an interrupt among them: nothing may go on behind our back
            pool.shutdown(wait=False, cancel_futures=True)
            for run in runs:
                run.stop()
            raise


def gpus(recipe: Path) -> int:
    """Return how many GPUs a run of a recipe needs, one for each process."""
    processes = params.flatten(with_recipe(recipe)).get("train.processes")
    return processes if isinstance(processes, int) and processes > 0 else 1  # the run refuses other values


def write(recipes: dict[Path, list[Experiment]], test: bool) -> None:
    """Write results/NAME.json and the log for each recipe, and print a table of them."""
    sweeps: dict[str, dict[str, Any]] = {}
    for recipe, group in recipes.items():
        found = {run.name: outcome(run, test) for run in group}
        end = f"--seeds {len(group)}{' --test' if test else ''}"
        sweep = sweeps[recipe_name(recipe)] = {
            "command": f"python -m tools.sweep {os.path.relpath(recipe)} {end}",
            "recipe": read_recipe(recipe),
            "commit": group[0].start.commit + "-dirty" * bool(group[0].start.stash),
            "runs": {name: metrics for name, (metrics, _) in found.items()},
        }
        results.write(recipe_name(recipe), sweep, {name: notes for name, (_, notes) in found.items()})
    print(f"\n{results.table(sweeps)}")


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweep", description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--test", action="store_true", help="evaluate the test images too: once, at the end")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time here (default: %(default)s)")
    jobs = parser.add_argument_group("as jobs", "one for each run, from a clone that the nodes see too")
    jobs.add_argument("--cluster", choices=["slurm", "local"], help="local: jobs on this machine")
    jobs.add_argument("--hours", type=float, default=1, help="time limit of a job (default: %(default)s)")
    jobs.add_argument("--partition", help="Slurm's partition")
    jobs.add_argument("--cpu", action="store_true", help="ask for no GPU")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error("--seeds and --jobs are at least 1")
    return arguments


def main() -> None:
    """Run, wait, tell."""
    arguments, start = options(), baseline()
    print(f"the output of each run goes to {LOGS}/NAME/console.log", flush=True)
    recipes = {path: experiments(path, arguments.seeds, arguments.test, start) for path in arguments.recipes}
    needs = {recipe: 0 if arguments.cpu else gpus(recipe) for recipe in recipes}
    runs = {run: needs[recipe] for recipe, group in recipes.items() for run in group}
    if arguments.cluster:
        from tools import cluster  # submitit is an extra

        ended = cluster.run(runs, arguments.cluster, arguments.hours, arguments.partition)
    else:
        ended = run_locally(runs, arguments.jobs)
    failed = {}
    for run, reason in ended:
        print(f"{run.name}: {'failed' if reason else 'done'}", flush=True)
        if reason:
            failed[run] = reason
    if failed:
        why = "; ".join(f"{run.name} failed, {path} says why" for run, path in failed.items())
        raise UserError(f"{why}; the same command again takes up what was stopped")
    write(recipes, arguments.test)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # a script's `&` ignores SIGINT, and its children too
        signal.signal(number, signal.default_int_handler)
    with command.one_line():
        try:
            main()
        except KeyboardInterrupt:
            sys.exit("stopped; the same command again takes up the runs")
