"""Recipes as experiments in DVC's queue."""

import json
import math

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.conftest import Clone
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
    assert list(sweep.settings(changes)) == [
        "train.label_smoothing=0.1",
        "train.schedule.shape=cosine",
        "train.schedule.warmup=0.25",
        "train.optimizer.betas=[0.8, 0.9]",
        "train.optimizer.decay_all=false",
        "train.mixing.cutmix=0.5",
        "train.mixing.plain_epochs=1",
        "evaluate.flip=true",
    ]


def test_the_interval_is_students() -> None:
    mean, deviation, half = sweep.interval([90.0, 91.0, 93.0])
    assert (mean, deviation) == pytest.approx((274 / 3, np.std([90, 91, 93], ddof=1)))
    assert half == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)  # t of 97.5 %, 2 degrees


@pytest.mark.slow
def test_a_recipe_runs_with_its_seeds_and_leaves_the_workspace_alone(clone: Clone) -> None:
    (clone.folder / "recipes/small.yaml").write_text(RECIPE)
    scratch.commit(clone.folder, "a recipe")
    printed = clone.run("python", "-m", "tools.sweep", "recipes/small.yaml", "--seeds", "2", "--test")
    assert "| small | 2 |" in printed
    runs = json.loads(clone.read("results/small.json"))["runs"]
    assert list(runs) == ["small-0", "small-1"]
    assert runs["small-0"] != runs["small-1"]
    for name, run in runs.items():
        assert {"accuracy", "accuracy_with_flip", "loss_with_flip"} <= set(run["test"])
        params = clone.dvc("params", "diff", "HEAD", name)
        assert "train.schedule.shape" in params
        assert "cosine" in params
    assert scratch.git(clone.folder, "status", "--porcelain").split() == ["??", "results/"]
    clone.dvc("exp", "apply", "small-1")
    clone.stage("train")  # alone, it gives the same bits
    clone.stage("evaluate")
    test = json.loads(clone.read("metrics/test.json"))
    assert test["accuracy_with_flip"] == runs["small-1"]["test"]["accuracy_with_flip"]


@pytest.mark.slow
def test_without_test_the_test_images_stay_unread(clone: Clone) -> None:
    (clone.folder / "recipes/small.yaml").write_text("train: {epochs: 1}\n")
    scratch.commit(clone.folder, "a recipe")
    clone.run("python", "-m", "tools.sweep", "recipes/small.yaml")
    assert set(json.loads(clone.read("results/small.json"))["runs"]["small-0"]) == {"data", "train"}


def test_a_failed_run_is_named(clone: Clone) -> None:
    (clone.folder / "recipes/wrong.yaml").write_text("train: {epochs: 0}\n")
    scratch.commit(clone.folder, "a recipe")
    printed = clone.run("python", "-m", "tools.sweep", "recipes/wrong.yaml", status=1)
    assert "error: wrong-0 failed; `dvc queue logs wrong-0` says why" in printed
    assert "train.epochs: input should be greater" in clone.dvc("queue", "logs", "wrong-0")
