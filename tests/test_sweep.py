"""Recipes as experiments in DVC's queue."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import files
from tests.conftest import Clone
from tests.test_cluster import alone, models, prepared
from tests.test_files import CONFIGS
from tools import scratch, sweep

RECIPE = """
train:
  label_smoothing: 0.1
  schedule:
    shape: cosine
    warmup: 0.25
  optimizer:
    betas: [0.8, 0.9]
    decay_all: false
  mixing:
    cutmix: 0.5
    plain_epochs: 1
evaluate:
  flip: true
"""


def test_settings_are_what_dvc_takes() -> None:
    changes = YAML(typ="safe").load(RECIPE)
    assert [f"{name}={value}" for name, value in sweep.settings(changes)] == [
        "train.label_smoothing=0.1",
        "train.schedule.shape=cosine",
        "train.schedule.warmup=0.25",
        "train.optimizer.betas=[0.8, 0.9]",
        "train.optimizer.decay_all=false",
        "train.mixing.cutmix=0.5",
        "train.mixing.plain_epochs=1",
        "evaluate.flip=true",
    ]


def test_a_recipe_stands_on_others(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {epochs: 1, optimizer: {lr: 1, betas: [0, 0]}}")
    (tmp_path / "high.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}")
    (tmp_path / "in").mkdir()
    top = tmp_path / "in/top.yaml"
    top.write_text("base: [../low.yaml, ../high.yaml]\ntrain: {optimizer: {betas: [1, 1]}}")
    expected = {"train": {"epochs": 2, "optimizer": {"lr": 1, "betas": [1, 1]}}, "evaluate": {"flip": True}}
    assert sweep.read_recipe(top) == expected


@pytest.mark.parametrize("recipe", sorted(scratch.ROOT.glob("recipes/**/*.yaml")), ids=sweep.title)
def test_a_recipe_is_valid_and_holds_only_what_differs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = YAML(typ="safe")
    own, params = yaml.load(recipe) or {}, yaml.load(scratch.ROOT / "params.yaml")
    for base in own.pop("base", []):
        scratch.merge(params, sweep.read_recipe(recipe.parent / base))
    before = dict(sweep.settings(params))
    for name, value in sweep.settings(own):
        assert before[name] != value, f"{name} is as it would be without it"
    scratch.merge(params, own)
    yaml.dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for section, config_class in CONFIGS.items():
        files.read_params(section, config_class)


def test_the_minutes_of_training_come_from_its_lines() -> None:
    line = "epoch {}/2  train loss 2 accuracy 1%  validation loss 1 accuracy 2%  {} s  1,000 images/s"
    log = "\n".join(["Running", line.format(1, "30.5"), line.format(2, "59.5")])
    assert sweep.minutes(log) == 1.5
    assert sweep.minutes(f"resuming this run after 3 epochs\n{log}") is None
    assert sweep.minutes("Stage 'train' is cached - skipping run, checking out outputs") is None


@pytest.mark.slow
def test_a_recipe_runs_with_its_seeds_and_leaves_the_workspace_alone(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, RECIPE)
    printed = clone.run("python", "-m", "tools.sweep", "recipes/new.yaml", "--seeds", "2", "--test")
    assert "| new | 2 |" in printed
    runs = json.loads(clone.read("results/new.json"))["runs"]
    assert list(runs) == ["new-0", "new-1"]
    assert runs["new-0"] != runs["new-1"]
    for name, run in runs.items():
        assert run["train"]["minutes"] > 0
        assert {"accuracy", "accuracy_with_flip", "loss_with_flip"} <= set(run["test"])
        params = clone.dvc("params", "diff", "HEAD", name)
        assert "train.schedule.shape" in params
        assert "cosine" in params
    assert scratch.git(clone.folder, "status", "--porcelain").split() == ["??", "results/new.json"]
    # Another one under the same names waits for its own runs, which are in DVC's cache.
    clone.run("python", "-m", "tools.sweep", "recipes/new.yaml", "--seeds", "2", "--test")
    for name, again in json.loads(clone.read("results/new.json"))["runs"].items():
        assert again["train"].pop("minutes") is None
        assert again["train"] == {key: runs[name]["train"][key] for key in again["train"]}
        assert again["test"] == runs[name]["test"]
    clone.dvc("exp", "apply", "new-1")
    clone.stage("train")  # alone, it gives the same bits
    clone.stage("evaluate")
    test = json.loads(clone.read("metrics/test.json"))
    assert test["accuracy_with_flip"] == runs["new-1"]["test"]["accuracy_with_flip"]


@pytest.mark.slow
def test_without_test_the_test_images_stay_unread(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, "train: {epochs: 1}\n")
    clone.run("python", "-m", "tools.sweep", "recipes/new.yaml")
    assert set(json.loads(clone.read("results/new.json"))["runs"]["new-0"]) == {"train"}


@pytest.mark.slow
def test_a_failed_run_is_named(finished: Clone, tmp_path: Path) -> None:
    clone = prepared(finished, tmp_path, "train: {epochs: 0}\n")
    printed = clone.run("python", "-m", "tools.sweep", "recipes/new.yaml", status=1)
    assert "error: new-0 failed; `dvc queue logs new-0` says why" in printed
    assert "train.epochs: input should be greater" in clone.dvc("queue", "logs", "new-0")


def test_a_run_whose_worker_has_stopped_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(
        [f"1 new-0 {status}\n\nWorker status: 0 active, 0 idle" for status in ["Running"] * 9 + ["Success"]]
    )
    monkeypatch.setattr(sweep, "dvc", lambda *_: next(looks))
    monkeypatch.setattr(sweep, "SECONDS", 0)
    monkeypatch.setattr(sweep, "PATIENCE", 2)
    monkeypatch.setattr(sweep, "executing", lambda: True)
    assert sweep.wait({"new-0"}) == set()
    looks = iter(["1 new-0 Running\n\nWorker status: 0 active, 0 idle"] * 9)
    monkeypatch.setattr(sweep, "executing", lambda: False)
    with pytest.raises(SystemExit, match="no worker takes the experiments"):
        sweep.wait({"new-0"})


def kill_a_trainer(clone: Clone, sweep: "subprocess.Popen[bytes]") -> None:
    """SIGKILL one of the sweep's training processes, once it has saved a state."""
    deadline = time.monotonic() + 180
    while sweep.poll() is None:
        assert time.monotonic() < deadline
        for holder in (clone.cache / "cifar-resnet/resume").glob("*/holder.json"):
            if list(holder.parent.glob("*.pt")):
                os.kill(json.loads(holder.read_text())["pid"], signal.SIGKILL)
                return
        time.sleep(0.01)
    pytest.fail("the sweep ended before")


@pytest.mark.slow
def test_eight_runs_on_two_workers_one_killed_equal_runs_alone(
    finished: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "train: {epochs: 12, patience: 12}\n"
    clone = prepared(finished, tmp_path, recipe)
    clone.cache = tmp_path / "cache"  # no other run's states
    command = ["python", "-m", "tools.sweep", "recipes/new.yaml", "--seeds", "8", "--jobs", "2"]
    with (tmp_path / "printed").open("w") as printed:
        first = subprocess.Popen(
            command, cwd=clone.folder, env=clone.environment, stdout=printed, stderr=printed
        )
    kill_a_trainer(clone, first)
    monkeypatch.chdir(clone.folder)
    assert sweep.executing()
    assert first.wait() == 1
    lines = (tmp_path / "printed").read_text()
    (failed,) = re.findall(r"^(new-\d): failed$", lines, re.MULTILINE)
    assert lines.count(": success") == 7
    assert f"error: {failed} failed" in lines
    assert not sweep.executing()
    printed_again = clone.run(*command)
    assert "| new | 8 |" in printed_again
    assert "resuming this run after" in clone.dvc("queue", "logs", failed)
    runs = json.loads(clone.read("results/new.json"))["runs"]
    assert {run["train"]["minutes"] for run in runs.values()} == {None}, "cached, or begun before"
    changes = {"train": {"epochs": 12, "patience": 12}}
    assert models(clone) == {f"new-{seed}": alone(clone, changes, seed) for seed in range(8)}
