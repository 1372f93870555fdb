"""The pipeline as a user runs it: real dvc in a fresh clone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Clone
from tools import scratch

STAGES = ("fetch", "preprocess", "duplicates", "train", "evaluate", "export")
RESULTS = ("data", "models", "metrics", "plots", "dvc.lock")


def results(clone: Clone) -> dict[str, bytes]:
    """The bytes of every output, metric and plot, and of dvc.lock, by path."""
    paths = [path for name in RESULTS for path in [clone.folder / name, *(clone.folder / name).rglob("*")]]
    return {str(path.relative_to(clone.folder)): path.read_bytes() for path in paths if path.is_file()}


def metrics(clone: Clone, stage: str) -> Any:
    return json.loads(clone.read(f"metrics/{stage}.json"))


def table(clone: Clone, name: str) -> pd.DataFrame:
    return pd.read_csv(clone.folder / f"plots/{name}.csv")


def test_repro_leaves_the_declared_results(finished: Clone) -> None:
    test, train, export = (metrics(finished, stage) for stage in ("test", "train", "export"))
    history = table(finished, "history")
    assert list(history) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"]
    assert history["epoch"].tolist() == [1, 2, 3]
    best = history.iloc[history["val_accuracy"].argmax()]
    assert train["best_epoch"] == best["epoch"]
    assert train["val_accuracy"] == pytest.approx(best["val_accuracy"])
    assert train["stopped"] == "epoch budget spent"
    assert export["onnx_images"] == 100
    assert export["onnx_agreement"] == 1
    assert export["onnx_logit_difference"] < 1e-3
    assert export["onnx_bytes"] == len(finished.read("models/resnet50.onnx"))
    assert f"value: {test['test_accuracy']}\n" in finished.read("models/README.md").decode()
    assert metrics(finished, "data") == {"train_images": 400, "val_images": 100, "test_images": 100}
    assert table(finished, "classes")["val"].tolist() == [10] * 10
    predictions = table(finished, "predictions")
    assert sorted(predictions["index"]) == list(range(100))
    hits = predictions["label"] == predictions["prediction"]
    assert hits.mean() == pytest.approx(test["test_accuracy"])
    assert predictions["loss"].is_monotonic_decreasing
    assert predictions["loss"].mean() == pytest.approx(test["test_loss"], abs=1e-5)
    shares = hits.groupby(predictions["label"]).mean()
    per_class = table(finished, "per_class").set_index("class")["accuracy"]
    assert per_class.to_dict() == pytest.approx(shares.to_dict())
    bins = table(finished, "reliability")
    gaps = bins["images"] * (bins["accuracy"] - bins["confidence"]).abs()
    assert gaps.sum() / 100 == pytest.approx(test["test_ece"])


def test_a_second_repro_runs_nothing(finished: Clone) -> None:
    printed = finished.dvc("repro")
    assert "Running stage" not in printed
    assert json.loads(finished.dvc("status", "--json")) == {}
    assert scratch.git(finished.folder, "status", "--porcelain") == ""


def test_a_forced_repro_in_another_folder_gives_the_same_bytes(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path / "deeper")
    assert clone.dvc("repro", "--force").count("Running stage") == 6
    assert scratch.git(clone.folder, "status", "--porcelain") == ""  # dvc.lock, metrics and plots included
    assert len(results(clone)) > 20
    assert results(clone) == results(finished)


def test_change_a_number_and_compare(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    clone.change({"train": {"optimizer": {"lr": 0.01}}})
    assert "train.optimizer.lr" in clone.dvc("params", "diff")
    assert clone.dvc("repro").count("Running stage") == 3  # train, evaluate and export, not the data
    assert "val_accuracy" in clone.dvc("metrics", "diff", "--all")
    for command in (("metrics", "show", "metrics/test.json"), ("metrics", "diff")):
        assert max(map(len, clone.dvc(*command).splitlines())) <= 120, "it fits a terminal"
    clone.change({"evaluate": {"flip": True}})
    assert clone.dvc("repro").count("Running stage") == 2  # evaluate and export
    assert "mirror images" in clone.read("models/README.md").decode()
    assert "test_accuracy_with_flip" in metrics(clone, "test")


def test_stages_run_without_dvc_and_give_the_same_bytes_with_another_seed_too(
    finished: Clone, clone: Clone, tmp_path: Path
) -> None:
    seeds = {
        "fetch": {"synthetic": {"seed": 1}},
        "preprocess": {"seed": 1},
        "train": {"seed": 1, "epochs": 1},
    }
    other = finished.copy(tmp_path / "with")
    for one in (clone, other):
        one.change(seeds)
    for stage in STAGES:
        clone.stage(stage)
    other.dvc("repro")
    without, with_dvc = results(clone), results(other)
    for ignored in ("dvc.lock", *(path for path in with_dvc if path.endswith(".gitignore"))):
        without.pop(ignored, None), with_dvc.pop(ignored)
    assert len(without) > 20
    assert without == with_dvc
    assert without["models/resnet50.safetensors"] != finished.read("models/resnet50.safetensors")
