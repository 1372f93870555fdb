"""Recipes as jobs of a cluster, on submitit's local executor."""

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stages import files
from tests.conftest import FORK, Clone
from tools import scratch

pytestmark = pytest.mark.slow
SUBMIT = ("python", "-m", "tools.cluster", "--cluster", "local", "--cpu", "recipes/new.yaml")
MODEL = "models/resnet50.safetensors"


def prepared(finished: Clone, folder: Path, recipe: str) -> Clone:
    """A clone with a recipe, whose data are made already."""
    clone = finished.copy(folder)
    (clone.folder / "recipes/new.yaml").write_text(recipe)
    scratch.commit(clone.folder, "a recipe")
    return clone


def models(clone: Clone) -> dict[str, str]:
    """The MD5 of each experiment's model, by name."""
    found = {}
    for commit in json.loads(clone.dvc("exp", "show", "--json")):
        for experiment in commit["experiments"] or []:
            data: dict[str, Any] = experiment["revs"][0]["data"]
            found[experiment["name"]] = data["outs"][MODEL]["hash"]
    return found


def train(folder: Path, cache: Path) -> None:
    """The train stage in `folder`."""
    import torch

    from stages import train as stage

    os.chdir(folder)
    torch.set_num_threads(1)
    files.CACHE = cache
    stage.main()


def alone(clone: Clone, changes: dict[str, Any], seed: int) -> str:
    """The MD5 of the model of a run without DVC."""
    clone.change(changes | {"train": changes["train"] | {"seed": seed}})
    process = FORK.Process(target=train, args=(clone.folder, clone.cache / "alone"))
    process.start()
    process.join()
    assert process.exitcode == 0
    return hashlib.md5(clone.read(MODEL)).hexdigest()


def test_each_seed_is_a_job_and_gives_the_bits_of_a_run_alone(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, "train: {epochs: 1}\n")
    printed = clone.run(*SUBMIT, "--seeds", "2")
    assert "| new | 2 |" in printed
    results = json.loads(clone.read("results/new.json"))
    assert list(results["runs"]) == ["new-0", "new-1"]
    assert all(run["train"]["minutes"] > 0 for run in results["runs"].values())
    assert scratch.git(clone.folder, "status", "--porcelain").split() == ["??", "results/new.json"]
    expected = {f"new-{seed}": alone(clone, {"train": {"epochs": 1}}, seed) for seed in range(2)}
    assert models(clone) == expected


def job_process(clone: Clone) -> int | None:
    """The process in which submitit calls the job."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"submitit.core._submit" in command and str(clone.folder).encode() in command:
                return int(process.name)
        except OSError:
            continue  # it has ended
    return None


def test_a_preempted_job_is_queued_again_and_goes_on_to_the_same_bits(
    finished: Clone, tmp_path: Path
) -> None:
    clone = prepared(finished, tmp_path, "train: {epochs: 25, patience: 25}\n")
    states = set((clone.cache / "cifar-resnet/resume").glob("*/*.pt"))
    with (tmp_path / "printed").open("w") as printed:
        submitted = subprocess.Popen(
            SUBMIT, cwd=clone.folder, env=clone.environment, stdout=printed, stderr=printed
        )
    deadline = time.monotonic() + 120
    while not set((clone.cache / "cifar-resnet/resume").glob("*/*.pt")) - states:
        assert time.monotonic() < deadline
        assert submitted.poll() is None, (tmp_path / "printed").read_text()
        time.sleep(0.05)
    process = job_process(clone)
    assert process
    os.kill(process, signal.SIGUSR2)  # as Slurm does
    assert submitted.wait(300) == 0, (tmp_path / "printed").read_text()
    output = "".join(path.read_text() for path in clone.folder.glob("logs/cluster/*/*.out"))
    assert output.count("resuming this run after") == 1
    changes = {"train": {"epochs": 25, "patience": 25}}
    assert models(clone) == {"new-0": alone(clone, changes, 0)}


def test_a_failed_job_is_named(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, "train: {epochs: 0}\n")
    printed = clone.run(*SUBMIT, status=1)
    assert "error: new-0 failed; " in printed
