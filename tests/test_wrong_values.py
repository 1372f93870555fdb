"""A wrong value costs nothing: one line, and the last results come back from DVC's cache byte for byte."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.process import command, failures
from tests.conftest import Clone
from tests.process.test_command import MAIN
from tests.test_pipeline import results
from tools import scratch

# By section: the wrong values, and what the line has to say of them.
WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "fetch": [
        ({"dataset": "cifar100"}, "fetch.dataset: "),
        ({"dataset": "cifar10", "sources": ["nowhere.tar.gz"]}, "nowhere.tar.gz"),
    ],
    "preprocess": [
        ({"validation_images": 0}, "preprocess.validation_images: "),
        ({"validation_images": 500}, "validation_images 500"),
    ],
    "duplicates": [
        ({"threshold": 1.5}, "duplicates.threshold: "),
    ],
    "train": [
        ({"epochs": 0}, "train.epochs: "),
        ({"batch_size": 401}, "train.batch_size 401"),
        ({"batch_size": 50, "processes": 3}, "batch_size 50 must be a multiple of processes 3"),
        ({"device": "gpu"}, "train.device: "),
        ({"device": "cuda"}, "cuda is not available"),
        ({"mixing": {"cutmix": 0.7, "mixup": 0.7}}, "train.mixing"),
    ],
    "evaluate": [
        ({"batch_size": "500"}, "evaluate.batch_size: "),
    ],
    "export": [
        ({"images": 0}, "export.images: "),
    ],
}


@pytest.mark.slow
def test_wrong_values_cost_nothing(finished: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = finished.copy(tmp_path)
    params, before = clone.folder / "params.yaml", results(clone)
    right = params.read_bytes()
    monkeypatch.chdir(clone.folder)
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["stage"])

    def change(section: str, changes: dict[str, Any]) -> None:
        changed = yaml.safe_load(right)
        scratch.merge(changed[section], changes)
        params.write_text(yaml.safe_dump(changed))

    for section, cases in WRONG.items():
        change(section, cases[0][0])
        printed = clone.dvc("repro", "--single-item", section, status=255)
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert results(clone) != before, "DVC has removed this stage's results"
        monkeypatch.setenv("DVC_STAGE", section)
        for wrong, _ in cases[1:]:
            change(section, wrong)
            with pytest.raises(SystemExit) as end:
                command.run(MAIN[section], None)
            lines.append(str(end.value.code))  # a text is printed, with status 1
        for line, (_, said) in zip(lines, cases, strict=True):
            assert line.startswith("error: ")
            assert said in line
            assert line.endswith("put the old value back and run `dvc repro`"), line
            assert len(line.splitlines()) == 1
        params.write_bytes(right)
        assert "Running stage" not in clone.dvc("repro")
        assert results(clone) == before


@pytest.mark.parametrize(
    ("stage", "written", "said"), [("train", [], True), ("train", ["b"], False), ("other", [], False)]
)
def test_the_hint_stands_only_where_results_are_gone(
    stage: str, written: list[str], said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("stages: {train: {outs: [{path: a}, {path: b}]}}")
    for name in written:
        Path(name).touch()
    assert failures.text(UserError("wrong")) == "error: wrong", "not started by DVC"
    monkeypatch.setenv("DVC_STAGE", stage)
    assert ("DVC's cache" in failures.text(UserError("wrong"))) == said
