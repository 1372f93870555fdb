"""The pipeline as a user runs it: real dvc in a fresh clone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Clone
from tests.test_graph import STAGES
from tools import scratch

RESULTS = ("data", "models", "metrics", "plots", "dvc.lock")


def results(clone: Clone) -> dict[str, bytes]:
    """The bytes of every output, metric and plot, and of dvc.lock, by path."""
    paths = [path for name in RESULTS for path in [clone.folder / name, *(clone.folder / name).rglob("*")]]
    return {str(path.relative_to(clone.folder)): path.read_bytes() for path in paths if path.is_file()}


def metrics(clone: Clone, stage: str) -> Any:
    return json.loads(clone.read(f"metrics/{stage}.json"))


def test_repro_leaves_the_declared_results(finished: Clone) -> None:
    test, train, export = (metrics(finished, stage) for stage in ("test", "train", "export"))
    tables = {path.stem: pd.read_csv(path) for path in (finished.folder / "plots").glob("*.csv")}
    history = tables["history"]
    assert list(history) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"]
    assert history["epoch"].tolist() == [1, 2, 3]
    best = history.iloc[history["val_accuracy"].argmax()]
    assert train["best_epoch"] == best["epoch"]
    assert train["val_accuracy"] == pytest.approx(best["val_accuracy"])
    assert train["stopped"] == "epoch budget spent"
    assert (export["onnx_images"], export["onnx_agreement"]) == (100, 1)
    assert export["onnx_bytes"] == len(finished.read("models/resnet50.onnx"))
    assert f"value: {test['test_accuracy']}\n" in finished.read("models/README.md").decode()
    assert metrics(finished, "data") == {"train_images": 400, "val_images": 100, "test_images": 100}
    assert tables["classes"]["val"].tolist() == [10] * 10


def test_a_second_repro_runs_nothing(finished: Clone) -> None:
    printed = finished.dvc("repro")
    assert "Running stage" not in printed
    assert json.loads(finished.dvc("status", "--json")) == {}
    assert scratch.git(finished.folder, "status", "--porcelain") == ""


def test_change_a_number_and_compare(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    clone.change({"train": {"optimizer": {"lr": 0.01}}})
    assert "train.optimizer.lr" in clone.dvc("params", "diff")
    assert clone.dvc("repro").count("Running stage") == 3  # train, evaluate and export, not the data
    assert "val_accuracy" in clone.dvc("metrics", "diff", "--all")
    chosen = ("--md", "--drop", "^(?!Experiment|val_accuracy|train.optimizer.lr)")  # as in docs/tour.md
    for command in (("metrics", "show", "metrics/test.json"), ("metrics", "diff"), ("exp", "show", *chosen)):
        assert max(map(len, clone.dvc(*command).splitlines())) <= 120, "it fits a terminal"
    clone.change({"evaluate": {"flip": True}})
    assert clone.dvc("repro").count("Running stage") == 2  # evaluate and export
    assert "mirror images" in clone.read("models/README.md").decode()
    assert "test_accuracy_with_flip" in metrics(clone, "test")


def test_stages_without_dvc_give_the_same_bytes(finished: Clone, clone: Clone, tmp_path: Path) -> None:
    train, preprocess = {"seed": 1, "epochs": 1}, {"seed": 1, "train_images": 300}
    other = finished.copy(tmp_path / "with")
    for one in (clone, other):
        one.change({"fetch": {"synthetic": {"seed": 1}}, "preprocess": preprocess, "train": train})
    for stage in STAGES:
        clone.stage(stage)
    other.dvc("repro")
    without, with_dvc = results(clone), results(other)
    for ignored in ("dvc.lock", *(path for path in with_dvc if path.endswith(".gitignore"))):
        without.pop(ignored, None), with_dvc.pop(ignored)
    assert len(without) > 20
    assert without == with_dvc
    assert metrics(other, "data")["train_images"] == 300
    assert without["models/resnet50.safetensors"] != finished.read("models/resnet50.safetensors")
