"""What a user can get wrong ends in one line and exit status 1; a bug keeps its traceback."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.process import command
from cifar_resnet.serving import onnx_export
from stages import duplicates, evaluate, export, fetch, preprocess, train
from tests.conftest import Clone

MAIN: dict[str, Callable[[], None]] = {
    "fetch": fetch.main,
    "preprocess": preprocess.main,
    "duplicates": duplicates.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "export": export.main,
}
Told = Callable[[str], str]


@pytest.fixture
def told(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a stage in `clone` within this process; return its one line after checking its exit status."""
    monkeypatch.chdir(clone.folder)
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("CIFAR10_SOURCE", raising=False)
    monkeypatch.setattr(sys, "argv", ["stage"])

    def run(name: str) -> str:
        with pytest.raises(SystemExit) as end:
            command.run(MAIN[name], None)
        assert isinstance(end.value.code, str), "sys.exit(text) prints it and gives status 1"
        assert len(end.value.code.splitlines()) == 1
        return end.value.code

    return run


def prepare(*stages: str) -> None:
    """Run stages in this process; needs `told`, which makes `clone` the working folder."""
    for stage in stages:
        MAIN[stage]()


@pytest.fixture
def results(clone: Clone, finished: Clone) -> None:
    """Copies of all outputs in `clone`."""
    for folder in ("data", "models", "metrics", "plots"):
        shutil.copytree(finished.folder / folder, clone.folder / folder, dirs_exist_ok=True)


def test_missing_files_name_themselves(clone: Clone, told: Told) -> None:
    assert "data/raw/cifar-10-batches-py/batches.meta" in told("preprocess")
    assert "data/tensors/train.safetensors" in told("train")
    assert "models/resnet50.safetensors" in told("evaluate")
    assert "models/resnet50.safetensors" in told("export")
    (clone.folder / "params.yaml").unlink()
    assert "params.yaml" in told("fetch")


@pytest.mark.usefixtures("results")
def test_damaged_tensors(clone: Clone, told: Told) -> None:
    path = clone.folder / "data/tensors/val.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "data/tensors/val.safetensors is damaged" in told("train")


# By stage: values that only the stage itself can refuse. tests/test_files.py has the bounds.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("preprocess", {"validation_images": 500}, "validation_images 500"),
    ("train", {"batch_size": 401}, "train.batch_size 401"),
    ("train", {"batch_size": 50, "processes": 3}, "batch_size 50 must be a multiple of processes 3"),
    ("train", {"device": "cuda"}, "cuda is not available"),
    ("train", {"mixing": {"cutmix": 0.7, "mixup": 0.7}}, "train.mixing"),
    ("evaluate", {"batch_size": "500"}, "evaluate.batch_size: "),
]


@pytest.mark.usefixtures("results")
def test_values_that_do_not_fit_each_other_the_data_or_the_machine(clone: Clone, told: Told) -> None:
    params = clone.read("params.yaml")
    for stage, wrong, said in WRONG:
        clone.change({stage: wrong})
        assert said in told(stage)
        (clone.folder / "params.yaml").write_bytes(params)


def test_a_wrong_value_costs_nothing(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    params, before = clone.read("params.yaml"), clone.read(str(files.MODEL))
    clone.change({"train": {"epochs": 0}})
    printed = clone.dvc("repro", status=255)
    assert not (clone.folder / files.MODEL).exists(), "DVC has removed this stage's results"
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "train.epochs: " in line
    assert line.endswith("put the old value back and run `dvc repro`")
    (clone.folder / "params.yaml").write_bytes(params)
    assert "Running stage" not in clone.dvc("repro")
    assert clone.read(str(files.MODEL)) == before


def test_wrong_archive(clone: Clone, told: Told, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(b"<html>not here</html>")
    clone.change({"fetch": {"dataset": "cifar10", "sources": [str(wrong)]}})
    line = told("fetch")
    assert str(wrong) in line
    assert "CIFAR10_SOURCE" in line
    assert not (clone.folder / files.RAW).exists()


def test_out_of_memory_names_the_number_to_lower(
    clone: Clone, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("fetch", "preprocess")

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("cifar_resnet.training.loop.cross_entropy", fail)
    assert told("train") == "error: out of memory; lower train.batch_size (now 50)"


def test_diverging_loss(clone: Clone, told: Told) -> None:
    prepare("fetch", "preprocess")
    clone.change({"train": {"optimizer": {"lr": 10, "weight_decay": 10}, "precision": "float32"}})
    line = told("train")
    assert re.search(
        r"training loss became (nan|inf) in epoch \d+.*lower train.optimizer.lr \(now 10\)", line
    )
    assert not (clone.folder / "models").exists()


@pytest.mark.usefixtures("results")
def test_weights_of_another_network(told: Told) -> None:
    tensors, about = files.read_tensors(files.MODEL)
    files.write_tensors(files.MODEL, tensors, about | {"model": about["model"] | {"width": 8}})
    assert "the weights do not fit a network of width 8" in told("evaluate")
    files.write_tensors(files.MODEL, tensors, about | {"classes": about["classes"][::-1]})
    assert "was trained on" in told("evaluate")


@pytest.mark.usefixtures("results")
def test_an_onnx_file_that_computes_something_else(
    clone: Clone, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (files.ONNX, files.CARD):
        (clone.folder / path).unlink()
    predict = onnx_export.predict_onnx
    monkeypatch.setattr(onnx_export, "predict_onnx", lambda *given: predict(*given) * 1.01)
    with pytest.raises(onnx_export.DisagreementError, match=r"differ by .* is allowed.*the same for 100.00%"):
        told("export")  # a bug of ours, which keeps its traceback
    assert not (clone.folder / files.ONNX).exists()
    assert not (clone.folder / files.CARD).exists()


@pytest.mark.usefixtures("results")
def test_full_disk(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space left on device" in told("export")


@pytest.mark.parametrize("path", ["params.yaml", "src/cifar_resnet/training/augmentation.py"])
def test_what_is_edited_while_training_runs_is_no_result(
    path: str, clone: Clone, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("fetch", "preprocess")
    reads, edit = [], clone.folder / path
    original = edit.read_text()
    read = files.read_params

    def edited(section: str, config_class: type[object]) -> object:
        reads.append(section)
        if len(reads) == 2:  # at the end of the first epoch
            edit.write_text(original.replace("epochs: 3", "epochs: 4") + "# edited\n")
        return read(section, config_class)  # type: ignore[type-var]

    monkeypatch.setattr(files, "read_params", edited)
    assert "changed while training ran, so the result is not of what is there now" in told("train")
    assert len(re.findall("changed while training runs: put it back", capsys.readouterr().out)) == 1
    assert not (clone.folder / "models").exists()
    monkeypatch.setattr(files, "read_params", read)
    edit.write_text(original)
    train.main()  # finishes from the last checkpoint
    assert (clone.folder / "models/resnet50.safetensors").exists()


LEAST: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 10,
    "label_smoothing": 0,
    "ema_decay": 0,
    "schedule": {"shape": "constant", "warmup": 0},
    "optimizer": {"lr": 1e-8, "betas": [0, 0], "weight_decay": 0, "decay_all": False},
    "augmentation": {"flip": 0, "rotation": 0, "padding": 0, "cutout": 0},
    "mixing": {"cutmix": 0, "mixup": 0, "plain_epochs": 0},
}
MOST: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 60,
    "precision": "bfloat16",
    "deterministic": False,
    "all_images": True,
    "zero_gamma": True,
    "label_smoothing": 0.99,
    "ema_decay": 0.999,
    "schedule": {"shape": "cosine", "warmup": 0.99},
    "optimizer": {"lr": 10, "betas": [0.9999, 0.9999], "weight_decay": 10, "decay_all": True},
    "augmentation": {"flip": 1, "rotation": 180, "padding": 32, "cutout": 64},
    "mixing": {"cutmix": 0.5, "mixup": 0.5, "plain_epochs": 3},
}


@pytest.mark.parametrize(
    ("changes", "ended"),
    [(LEAST, "trained"), (MOST, "trained"), (MOST | {"batch_size": 121}, "error: train.batch_size 121")],
    ids=["least", "most", "too many"],
)
def test_the_ends_of_the_ranges_train_or_end_in_one_line(
    changes: dict[str, Any], ended: str, clone: Clone, told: Told, finished: Clone
) -> None:
    for name in ("train", "val"):
        tensors, about = files.read_tensors(finished.folder / files.tensors_path(name))
        few = {key: tensor[:60] for key, tensor in tensors.items()}
        files.write_tensors(files.tensors_path(name), few, about)
    clone.change({"train": changes})
    if ended == "trained":
        train.main()
    else:
        assert told("train").startswith(ended)
    assert (clone.folder / files.MODEL).exists() == (ended == "trained")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(RuntimeError, match="shape"):
        command.run(lambda: print(torch.zeros(2).view(3)), None)
    with pytest.raises(ValueError, match="could not convert"):
        command.run(lambda: print(float("x")), None)


def test_usage_errors_have_status_2_help_has_0_and_a_traceback_comes_on_request(clone: Clone) -> None:
    stage = ("python", "-m", "stages.train")
    assert "unrecognized arguments: --epochs" in clone.run(*stage, "--epochs", status=2)
    assert "params.yaml" in clone.run(*stage, "--help")
    assert "Traceback" in clone.run(*stage, "--traceback", status=1)
    running, told = clone.run(*stage, status=1).splitlines()
    assert running.startswith("training on ")
    assert told.startswith("error: data/tensors/train.safetensors is missing")
