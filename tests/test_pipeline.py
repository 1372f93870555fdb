"""The pipeline as a user runs it: real dvc in a fresh clone."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Clone
from tools import scratch


def test_repro_leaves_the_declared_results(finished: Clone) -> None:
    test, train = (json.loads(finished.read(f"metrics/{name}.json")) for name in ("test", "train"))
    assert 0 <= test["accuracy"] <= 1
    assert len(test["per_class_accuracy"]) == 10
    history = list(csv.DictReader(finished.read("plots/history.csv").decode().splitlines()))
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"]
    assert list(history[0]) == columns
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    best = max(history, key=lambda row: float(row["val_accuracy"]))
    assert train["best_epoch"] == int(best["epoch"])
    assert train["val_accuracy"] == float(best["val_accuracy"])
    assert train["stopped"] == "epoch budget spent"
    export = json.loads(finished.read("metrics/export.json"))
    assert export["images"] == 100
    assert export["top1_agreement"] == 1
    assert export["max_abs_logit_difference"] < 1e-3
    assert export["bytes"] == len(finished.read("models/resnet50.onnx"))
    data = json.loads(finished.read("metrics/data.json"))
    assert data["images"] == {"train": 400, "val": 100, "test": 100}
    assert data["images_per_class"]["val"] == [10] * 10
    predictions = list(csv.DictReader(finished.read("plots/predictions.csv").decode().splitlines()))
    assert sorted(int(row["index"]) for row in predictions) == list(range(100))
    hits = [row["label"] == row["prediction"] for row in predictions]
    assert sum(hits) / 100 == test["accuracy"]
    losses = [float(row["loss"]) for row in predictions]
    assert losses == sorted(losses, reverse=True)
    assert sum(losses) / 100 == pytest.approx(test["loss"], abs=1e-5)
    bins = list(csv.DictReader(finished.read("plots/reliability.csv").decode().splitlines()))
    gaps = [int(row["images"]) * abs(float(row["accuracy"]) - float(row["confidence"])) for row in bins]
    assert sum(gaps) / 100 == pytest.approx(test["expected_calibration_error"])


def test_a_second_repro_runs_nothing(finished: Clone) -> None:
    printed = finished.dvc("repro")
    assert "Running stage" not in printed
    assert json.loads(finished.dvc("status", "--json")) == {}
    assert scratch.git(finished.folder, "status", "--porcelain") == ""


def test_a_forced_repro_gives_the_same_bytes(finished: Clone) -> None:
    printed = finished.dvc("repro", "--force")
    assert printed.count("Running stage") == 6
    assert scratch.git(finished.folder, "status", "--porcelain") == ""  # dvc.lock, metrics and plots included


def test_declared_outputs_hold_no_path_and_no_host(finished: Clone) -> None:
    for path in [
        *finished.folder.glob("metrics/*"),
        *finished.folder.glob("plots/*"),
        *finished.folder.glob("models/*"),
        finished.folder / "dvc.lock",
    ]:
        assert str(finished.folder).encode() not in path.read_bytes(), path


def test_change_a_number_and_compare(finished: Clone) -> None:
    finished.change({"train": {"optimizer": {"lr": 0.01}}})
    try:
        assert "train.optimizer.lr" in finished.dvc("params", "diff")
        printed = finished.dvc("repro")
        assert printed.count("Running stage") == 3  # train, evaluate and export, not the data
        assert "val_accuracy" in finished.dvc("metrics", "diff", "--all")
        finished.dvc("plots", "diff", "HEAD")
        page = finished.read("dvc_plots/index.html").decode()
        for word in ("train_loss", "Learning rate", '"rev": "HEAD"', '"rev": "workspace"'):
            assert word in page
    finally:
        scratch.git(finished.folder, "checkout", "--", ".")
        finished.dvc("checkout")
    assert json.loads(finished.dvc("status", "--json")) == {}


def test_the_model_card_follows_the_metrics(finished: Clone) -> None:
    test = json.loads(finished.read("metrics/test.json"))
    card = finished.read("models/README.md").decode()
    assert f"value: {test['accuracy']}\n" in card
    assert "mirror images" not in card
    finished.change({"evaluate": {"flip": True}})
    try:
        assert finished.dvc("repro").count("Running stage") == 2  # evaluate and export
        assert "mirror images" in finished.read("models/README.md").decode()
    finally:
        scratch.git(finished.folder, "checkout", "--", ".")
        finished.dvc("checkout")


def test_experiments_run_queue_and_show(finished: Clone) -> None:
    finished.dvc("exp", "run", "--temp", "--name", "slow", "--set-param", "train.optimizer.lr=1e-3")
    finished.dvc("exp", "run", "--queue", "--name", "short", "--set-param", "train.epochs=1")
    finished.dvc("exp", "run", "--run-all")
    shown = {
        row["Experiment"]: row for row in csv.DictReader(finished.dvc("exp", "show", "--csv").splitlines())
    }
    assert {"slow", "short"} <= set(shown)
    assert float(shown["slow"]["train.optimizer.lr"]) == 0.001
    assert shown["short"]["train.epochs"] == "1"
    assert shown["short"]["epochs"] == "1"
    assert scratch.git(finished.folder, "status", "--porcelain") == ""


def test_stages_run_without_dvc_and_give_the_same_bytes(finished: Clone, clone: Clone) -> None:
    for stage in ("fetch", "preprocess", "compare", "train", "evaluate", "export"):
        clone.stage(stage)
    for path in (
        "models/resnet50.safetensors",
        "models/resnet50.onnx",
        "models/README.md",
        "metrics/test.json",
        "metrics/export.json",
        "plots/history.csv",
        "plots/mistakes.png",
        "plots/duplicates.png",
    ):
        assert clone.read(path) == finished.read(path), path


RESTORE = scratch.ROOT.parent / "shared/cifar10/restore.py"
real_data = pytest.mark.skipif(
    not RESTORE.exists(), reason="needs ../shared/cifar10, the real CIFAR-10 bytes"
)


@real_data
def test_real_cifar10_from_every_kind_of_source(clone: Clone, tmp_path: Path) -> None:
    clone.run("python", str(RESTORE), str(tmp_path), "--tar")
    clone.change({"fetch": {"dataset": "cifar10"}, "preprocess": {"validation_images": 5000}})
    digests = set()
    folder = tmp_path / "cifar-10-batches-py"
    for source in (tmp_path, folder, tmp_path / "cifar-10-python.tar.gz"):
        shutil.rmtree(clone.folder / "data/raw", ignore_errors=True)
        clone.stage("fetch", CIFAR10_SOURCE=str(source))
        files = sorted((clone.folder / "data/raw").rglob("*"))
        digests.add(
            hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
        )
    assert len(digests) == 1
    clone.stage("preprocess")
    data = json.loads(clone.read("metrics/data.json"))
    assert data["images_per_class"] == {"train": [4500] * 10, "val": [500] * 10, "test": [1000] * 10}
    assert data["classes"] == [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_clones_in_two_folders_give_the_same_bytes(seed: int, tmp_path: Path) -> None:
    params = {
        "fetch": {"synthetic": {"seed": seed}},
        "preprocess": {"seed": seed},
        "train": {"seed": seed, "epochs": 1},
    }
    outputs = []
    for name in ("one", "two"):
        clone = Clone(tmp_path / name / "deeper" / name, tmp_path / name / "cache", params)
        clone.dvc("repro")
        folders = ("data", "models", "metrics", "plots")
        paths = [path for folder in folders for path in (clone.folder / folder).rglob("*") if path.is_file()]
        paths.append(clone.folder / "dvc.lock")
        outputs.append({str(path.relative_to(clone.folder)): path.read_bytes() for path in paths})
    assert len(outputs[0]) > 20
    assert outputs[0] == outputs[1]
