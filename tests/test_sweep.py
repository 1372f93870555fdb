"""Recipes as experiments, several at a time on this machine, and as jobs of submitit's local executor."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Clone
from tools import scratch, sweep

pytestmark = pytest.mark.slow
SWEEP = ("python", "-m", "tools.sweep", "recipes/new.yaml")
MODEL = "models/resnet50.safetensors"


def prepared(finished: Clone, folder: Path, **recipes: str) -> Clone:
    """A clone with recipes, whose data are made already, and a cache without other runs' states."""
    clone = finished.copy(folder)
    clone.cache = folder / "cache"
    for name, text in recipes.items():
        (clone.folder / f"recipes/{name}.yaml").write_text(text)
    scratch.commit(clone.folder, "recipes")
    return clone


def models(clone: Clone) -> dict[str, str]:
    """The MD5 of each experiment's model, by name."""
    found = {}
    for ref in scratch.git(clone.folder, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        *place, name = ref.split("/")
        if len(place) == 4:  # not a stash of the queue's
            lock = yaml.safe_load(scratch.git(clone.folder, "show", f"{ref}:dvc.lock"))
            hashes = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
            found[name] = hashes[MODEL]
    return found


def alone(clone: Clone, changes: dict[str, Any], seed: int) -> str:
    """The MD5 of the model of a run without DVC."""
    clone.change(changes | {"train": changes["train"] | {"seed": seed}})
    clone.stage("train", XDG_CACHE_HOME=str(clone.cache / "alone"))
    return hashlib.md5(clone.read(MODEL)).hexdigest()


def results(clone: Clone) -> dict[str, Any]:
    """The runs of the sweep of recipes/new.yaml."""
    runs: dict[str, Any] = json.loads(clone.read("results/new.json"))["runs"]
    return runs


def started(clone: Clone, *arguments: str) -> "subprocess.Popen[str]":
    """A sweep that runs beside the test."""
    return clone.start(*SWEEP, *arguments)


def trainer(clone: Clone, sweep: "subprocess.Popen[str]") -> int:
    """The process of a run that has saved a state."""
    return int(json.loads((clone.saved(sweep) / "holder.json").read_text())["pid"])


def test_two_runs_at_a_time_one_killed_equal_runs_alone(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 4}\n")
    first = started(clone, "--seeds", "2", "--jobs", "2")
    os.kill(trainer(clone, first), signal.SIGKILL)
    printed, _ = first.communicate()
    assert first.returncode == 1, printed
    (failed,) = (line.split(":")[0] for line in printed.splitlines() if line.endswith(": failed"))
    assert printed.count(": done") == 1
    console = clone.folder / f"logs/sweep/{failed}/console.log"
    assert f"error: {failed} failed, {console} says why; the same command again" in printed
    assert "| new " in clone.run(*SWEEP, "--seeds", "2", "--jobs", "2")
    assert "resuming this run after" in console.read_text()
    changes = {"train": {"epochs": 4}}
    assert models(clone) == {f"new-{seed}": alone(clone, changes, seed) for seed in range(2)}
    runs = results(clone)
    assert list(runs) == [f"new-{seed}" for seed in range(2)]
    assert {name: run["interruptions"] for name, run in runs.items()} == {n: int(n == failed) for n in runs}
    for run in runs.values():
        assert run["minutes"] > 0
        assert run["hardware"]["threads"] == 1
        assert set(run) == {"data", "train", "minutes", "interruptions", "hardware"}, "no test metrics"
    consoles = [path.read_text() for path in clone.folder.glob("logs/sweep/*/console.log")]
    assert sum(text.count("is cached - skipping run") for text in consoles) == 1
    assert sum(text.count("Running stage 'train'") for text in consoles) == 3
    assert not list((clone.folder / ".dvc/tmp").glob("sweep-*"))


def test_runs_at_a_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for jobs, given, used in [(1, None, None), (3, None, "2"), (9, None, "1"), (3, "5", "5")]:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert not list(sweep.here([], jobs))
        assert os.environ.get("OMP_NUM_THREADS") == used


def test_with_test_the_test_images_are_read_and_the_workspace_stays(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 1}\nevaluate: {flip: true}\n")
    clone.run(*SWEEP, "--test")
    assert scratch.git(clone.folder, "status", "--porcelain").split() == [
        *("??", "results/new.json"),
        *("??", "results/new.log.jsonl"),
    ]
    first = results(clone)["new-0"]
    assert {"test_accuracy", "test_accuracy_with_flip"} <= set(first["test"])
    difference = clone.dvc("params", "diff", "HEAD", "new-0")
    assert "train.epochs" in difference
    assert "evaluate.flip" in difference
    # Another sweep under the same name, with edits that no commit has.
    (clone.folder / "recipes/new.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}\n")
    clone.change({"evaluate": {"batch_size": 50}})
    clone.run(*SWEEP, "--test")
    second = json.loads(clone.read("results/new.json"))
    assert second["commit"].endswith("-dirty")
    assert second["runs"]["new-0"]["train"]["epochs"] == 2
    assert "batch_size: 50" in clone.read("params.yaml").decode(), "the edit is still there"


def test_a_sweep_that_is_stopped_leaves_nothing_running(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 60, patience: 60}\n")
    sweep = started(clone, "--seeds", "2")
    process = trainer(clone, sweep)
    sweep.terminate()
    printed, _ = sweep.communicate()
    assert sweep.returncode == 1
    assert "stopped; the same command again takes up the runs" in printed
    assert not Path(f"/proc/{process}").exists()
    assert "SIGINT: saving the state and stopping" in clone.read("logs/sweep/new-0/console.log").decode()
    assert not (clone.folder / "logs/sweep/new-1").exists()
    assert not list((clone.folder / ".dvc/tmp").glob("sweep-*"))


def job_process(clone: Clone) -> int | None:
    """The process in which submitit calls the job of recipes/new.yaml."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            inside = b"submitit.core._submit" in command and str(clone.folder).encode() in command
            if inside and b"sweep-new-" in b"".join(p.read_bytes() for p in children(process)):
                return int(process.name)
        except OSError:
            continue  # it has ended
    return None


def children(process: Path) -> list[Path]:
    """The environments of a process's children."""
    pids = (process / f"task/{process.name}/children").read_text().split()
    return [Path(f"/proc/{pid}/environ") for pid in pids]


def test_a_preempted_job_goes_on_to_the_same_bits_and_a_failed_one_is_named(
    finished: Clone, tmp_path: Path
) -> None:
    recipes = {"new": "train: {epochs: 12, patience: 12}\n", "wrong": "train: {epochs: 0}\n"}
    clone = prepared(finished, tmp_path, **recipes)
    local = ("recipes/wrong.yaml", "--cluster", "local", "--cpu")
    submitted = started(clone, *local)
    trainer(clone, submitted)
    process = job_process(clone)
    assert process
    os.kill(process, signal.SIGUSR2)  # as Slurm does
    printed, _ = submitted.communicate()
    assert submitted.returncode == 1
    assert "new-0: done" in printed
    assert "error: wrong-0 failed, " in printed
    assert "train.epochs: input should be greater" in clone.read("logs/sweep/wrong-0/console.log").decode()
    assert clone.read("logs/sweep/new-0/console.log").decode().count("resuming this run after") == 1
    changes = {"train": {"epochs": 12, "patience": 12}}
    assert models(clone) == {"new-0": alone(clone, changes, 0)}
