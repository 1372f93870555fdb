"""Recipes as experiments, several at a time on this machine, and as jobs of submitit's local executor."""

import hashlib
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from dvc.repo import Repo

from cifar_resnet.errors import UserError
from tests.conftest import Clone
from tools import experiment, scratch, sweep

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
        if ref.count("/") == 4:  # not a stash of the queue's
            lock = yaml.safe_load(scratch.git(clone.folder, "show", f"{ref}:dvc.lock"))
            hashes = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
            found[ref.split("/")[-1]] = hashes[MODEL]
    return found


def alone(clone: Clone, changes: dict[str, Any], seed: int) -> str:
    """The MD5 of the model of a run without DVC."""
    clone.change(changes | {"train": changes["train"] | {"seed": seed}})
    clone.stage("train", XDG_CACHE_HOME=str(clone.cache / "alone"))
    return hashlib.md5(clone.read(MODEL)).hexdigest()


def results(clone: Clone) -> Any:
    """The runs of the sweep of recipes/new.yaml."""
    return json.loads(clone.read("results/new.json"))["runs"]


def trainer(clone: Clone, sweep: "subprocess.Popen[str]") -> int:
    """The process of a run that has saved a state."""
    return int(json.loads((clone.saved(sweep) / "run.json").read_text())["pid"])


def test_two_runs_at_a_time_one_killed_equal_runs_alone(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 4}\n")
    two = (*SWEEP, "--seeds", "2", "--jobs", "2")
    first = clone.start(*two)
    os.kill(trainer(clone, first), signal.SIGKILL)
    printed, _ = first.communicate()
    assert first.returncode == 1, printed
    assert printed.count(": done") == 1
    (failed,) = (line.split(":")[0] for line in printed.splitlines() if line.endswith(": failed"))
    console = clone.folder / f"logs/sweep/{failed}/console.log"
    assert f"error: {failed} failed, {console} says why; the same command again" in printed
    assert "| new " in clone.run(*two)
    assert "resuming this run after" in console.read_text()
    runs = results(clone)
    changes = {"train": {"epochs": 4}}
    assert models(clone) == {f"new-{seed}": alone(clone, changes, seed) for seed in range(2)}
    for name, run in runs.items():
        assert run["interruptions"] == (name == failed)
        assert run["minutes"] > 0
        assert set(run) == {"data", "train", "minutes", "interruptions", "hardware"}, "no test metrics"
    consoles = "".join(path.read_text() for path in clone.folder.glob("logs/sweep/*/console.log"))
    assert consoles.count("is cached - skipping run") == 1
    assert consoles.count("Running stage 'train'") == 3
    assert not list((clone.folder / ".dvc/tmp").glob("sweep-*"))


def test_runs_at_a_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)  # as many as this process may use
    for jobs, given, used in [(1, "", ""), (3, "", "2"), (9, "", "1"), (3, "5", "5")]:
        monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": given} if given else {})
        assert not list(sweep.run_locally({}, jobs))
        assert os.environ.get("OMP_NUM_THREADS", "") == used


@pytest.mark.parametrize(
    ("visible", "gpus", "needed", "jobs", "expected"),
    [
        (None, 4, [1, 1, 1], 3, ["0", "1", "2"]),
        ("5,2,7", 3, [1, 1], 2, ["2", "5"]),
        (None, 4, [2, 2], 2, ["0,1", "2,3"]),
        (None, 5, [1, 2], 2, ["0,1", "2,3"]),  # each place is enough for each run
        (None, 3, [1, 1, 1], 1, ["0", "0", "0"]),  # taken again when a run has ended
        (None, 2, [1, 1, 1], 3, ["0", "0", "1"]),  # asked for more than there are: in turn
        (None, 1, [2], 1, [None]),  # too few: the run itself says so
        (None, 0, [1, 1], 2, [None, None]),
        (None, 4, [0, 0], 2, [None, None]),  # --cpu
    ],
)
def test_runs_at_a_time_have_gpus_of_their_own(
    visible: str | None,
    gpus: int,
    needed: list[int],
    jobs: int,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    places: list[str | None] = []
    together = threading.Barrier(jobs)  # a run lasts until as many as can run at a time are running

    def run(**environment: str) -> None:
        places.append(environment.get("CUDA_VISIBLE_DEVICES"))
        together.wait(timeout=60)

    runs: Any = {mock.Mock(run=run): need for need in needed}
    assert [why for _, why in sweep.run_locally(runs, jobs)] == [None] * len(needed)
    assert sorted(map(str, places)) == sorted(map(str, expected))


def test_a_start_that_runs_cannot_have_is_refused_and_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.git(tmp_path, "init", "--quiet", "whole")
    for text in ("one", "two"):
        scratch.commit(tmp_path / "whole", text)
    scratch.git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tmp_path}/whole", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    with pytest.raises(UserError, match="`git fetch --unshallow`"):
        experiment.baseline()
    (tmp_path / "whole/src").mkdir()
    (tmp_path / "whole/src/new.py").touch()
    monkeypatch.chdir(tmp_path / "whole")
    with pytest.raises(UserError, match=r"^src/new.py is not in Git, .*: `git add src/new.py` first$"):
        experiment.baseline()
    Repo.init().close()
    for odd in ("%(x)s", "\udcff"):
        with pytest.raises(UserError, match=r"rename the folder$"):
            scratch.configure(Path(".dvc"), "cache", "dir", odd)
    scratch.configure(Path(".dvc"), "'remote \"s3\"'", "url", "s3://bucket/a#b, c")
    scratch.configure(Path(".dvc"), "cache", "dir", str(tmp_path / "caf\u00e9"))
    scratch.commit(Path(), "three")
    os.utime("src/new.py", (0, 0))  # touched, not edited
    start = experiment.baseline()
    with Repo() as repo:
        assert repo.config["remote"]["s3"]["url"] == "s3://bucket/a#b, c"
    assert (start.stash, start.cache) == ("", str(tmp_path / "caf\u00e9"))


def test_with_test_the_test_images_are_read_and_the_workspace_stays(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 1}\nevaluate: {flip: true}\n")
    clone.run(*SWEEP, "--test")
    changed = scratch.git(clone.folder, "status", "--porcelain").split()
    assert changed == ["??", "results/new.json", "??", "results/new.log.jsonl"]
    assert {"test_accuracy", "test_accuracy_with_flip"} <= set(results(clone)["new-0"]["test"])
    params = json.loads(clone.dvc("params", "diff", "HEAD", "new-0", "--json"))["params.yaml"]
    assert set(params) == {"train.epochs", "evaluate.flip"}
    # Another sweep under the same name, with edits that no commit has.
    (clone.folder / "recipes/new.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}\n")
    clone.change({"evaluate": {"batch_size": 50}})
    clone.run(*SWEEP, "--test")
    assert json.loads(clone.read("results/new.json"))["commit"].endswith("-dirty")
    assert results(clone)["new-0"]["train"]["epochs"] == 2
    assert "batch_size: 50" in clone.read("params.yaml").decode(), "the edit is still there"


def test_a_sweep_that_is_stopped_leaves_nothing_running(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, new="train: {epochs: 60, patience: 60}\n")
    # Without SIGINT, as a command of a script that ends with `&`.
    sweep = clone.start("sh", "-c", 'trap "" INT; exec "$@"', "sh", *SWEEP, "--seeds", "2")
    process = trainer(clone, sweep)
    sweep.terminate()
    printed, _ = sweep.communicate()
    assert sweep.returncode == 1
    assert "stopped; the same command again takes up the runs" in printed
    assert not Path(f"/proc/{process}").exists()
    assert "SIGINT: saving a checkpoint and stopping" in clone.read("logs/sweep/new-0/console.log").decode()
    assert not (clone.folder / "logs/sweep/new-1").exists()
    assert not list((clone.folder / ".dvc/tmp").glob("sweep-*"))


def job_process(run: int) -> int:
    """The process in which submitit calls the job that `run` is part of: one of its ancestors."""
    while b"submitit.core._submit" not in Path(f"/proc/{run}/cmdline").read_bytes():
        run = int(Path(f"/proc/{run}/stat").read_text().split()[3])
    return run


def test_a_preempted_job_goes_on_to_the_same_bits(finished: Clone, tmp_path: Path) -> None:
    recipes = {"new": "train: {epochs: 12, patience: 12}\n", "wrong": "train: {epochs: 0}\n"}
    clone = prepared(finished, tmp_path, **recipes)
    submitted = clone.start(*SWEEP, "recipes/wrong.yaml", "--cluster", "local", "--cpu")
    os.kill(job_process(trainer(clone, submitted)), signal.SIGUSR2)  # as Slurm does
    printed, _ = submitted.communicate()
    assert submitted.returncode == 1
    assert "new-0: done" in printed
    assert "error: wrong-0 failed, " in printed
    assert "train.epochs: input should be greater" in clone.read("logs/sweep/wrong-0/console.log").decode()
    assert clone.read("logs/sweep/new-0/console.log").decode().count("resuming this run after") == 1
    changes = {"train": {"epochs": 12, "patience": 12}}
    assert models(clone) == {"new-0": alone(clone, changes, 0)}
