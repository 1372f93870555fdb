"""The pipeline as a user runs it: real dvc in a fresh clone."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cifar_resnet import params
from tests.conftest import Clone
from tools import lock, scratch

RESULTS = ("data", "models", "metrics", "plots")


def contents(clone: Clone, paths: Iterable[str]) -> dict[str, bytes]:
    """The bytes of files and of those in folders, by path."""
    found = [file for path in map(clone.folder.joinpath, paths) for file in (path, *path.rglob("*"))]
    return {str(file.relative_to(clone.folder)): file.read_bytes() for file in found if file.is_file()}


def metrics(clone: Clone, stage: str) -> Any:
    return json.loads(clone.read(f"metrics/{stage}.json"))


def test_repro_leaves_the_declared_results(finished: Clone) -> None:
    test, export = (metrics(finished, stage) for stage in ("test", "export"))
    history = pd.read_csv(finished.folder / "plots/history.csv")
    assert list(history) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert (export["onnx_images"], export["onnx_agreement"]) == (100, 1)
    assert export["onnx_bytes"] == len(finished.read("models/resnet50.onnx"))
    assert f"value: {test['test_accuracy']}\n" in finished.read("models/README.md").decode()
    assert metrics(finished, "data") == {"train_images": 400, "val_images": 100, "test_images": 100}


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


def test_a_stage_needs_only_what_it_declares_and_gives_the_same_bytes_without_dvc(
    finished: Clone, clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = finished.copy(tmp_path / "with")
    preprocess = {"seed": 1, "train_images": 300}
    other.change({"fetch": {"synthetic": {"seed": 1}}, "preprocess": preprocess, "train": {"epochs": 1}})
    other.dvc("repro")
    monkeypatch.chdir(other.folder)
    values = params.read_yaml(Path("params.yaml"))
    for name, stage in lock.locked().items():
        for folder in RESULTS:
            shutil.rmtree(clone.folder / folder, ignore_errors=True)
        for path, content in contents(other, stage.data).items():
            (clone.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (clone.folder / path).write_bytes(content)
        declared: dict[str, Any] = {}
        for key in stage.params:
            section, _, rest = key.partition(".")
            found = values[section]
            scratch.merge(declared, {section: {rest: found[rest]} if rest else found})
        (clone.folder / "params.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        clone.stage(name)
        assert contents(clone, stage.outs) == contents(other, stage.outs)
    assert metrics(other, "data")["train_images"] == 300
    assert contents(other, lock.locked()["train"].outs) != contents(finished, lock.locked()["train"].outs)
