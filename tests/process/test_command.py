"""What a user can get wrong ends in one line and exit status 1; a bug keeps its traceback."""

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from cifar_resnet import files
from cifar_resnet.process import command
from cifar_resnet.serving import onnx_export
from tests.conftest import Clone
from tests.made_up import flip_a_bit
from tests.process.conftest import Workspace
from tests.process.test_checkpoint import no_space
from tools import scratch


def altered_model(changes: dict[str, Any]) -> None:
    """Let the model file say something else."""
    tensors, about = files.read_tensors(files.MODEL)
    files.write_tensors(files.MODEL, tensors, about | changes)


def no_archive(name: str) -> None:
    Path(name).write_bytes(b"<html>not here</html>")
    scratch.change(Path("params.yaml"), {"fetch": {"dataset": "cifar10", "sources": [name]}})


# The stage that finds it, what is done with what, or settings of the stage; words of its line.
# tests/test_files.py has the bounds of single values.
WRONG: list[tuple[str, tuple[Callable[[Any], object], Any] | dict[str, Any], str]] = [
    ("fetch", (Path.unlink, Path("params.yaml")), "params.yaml"),
    ("fetch", (no_archive, "wrong.tar.gz"), "wrong.tar.gz.*CIFAR10_SOURCE"),
    ("preprocess", (Path.unlink, files.RAW / "batches.meta"), "No such file.*data/raw/.*/batches.meta"),
    ("preprocess", {"validation_images": 500}, "validation_images 500"),
    ("train", (flip_a_bit, files.tensors_path("val")), "data/tensors/val.safetensors is damaged"),
    ("train", {"batch_size": 401}, "train.batch_size 401"),
    ("train", {"processes": 3}, "batch_size 50 must be a multiple of processes 3"),
    ("train", {"device": "mps" if torch.cuda.is_available() else "cuda"}, "device .* is not available"),
    ("train", {"mixing": {"cutmix": 0.7, "mixup": 0.7}}, "train.mixing"),
    ("train", {"mixing": {"cutmix": 0.7, "plain_epochs": 3}}, "plain_epochs 3 must be less than epochs 3"),
    ("train", {"optimizer": {"lr": 10, "weight_decay": 10}}, r"lower train.optimizer.lr \(now 10\)"),
    ("evaluate", (Path.unlink, files.MODEL), "models/resnet50.safetensors is missing"),
    (
        "evaluate",
        (altered_model, {"model": {"width": 8, "blocks": [1, 1, 1, 1]}}),
        r"do not fit a network of width 8 and blocks \(1, 1, 1, 1\): ",
    ),
    ("evaluate", (altered_model, {"classes": ["cat"] * 10}), "was trained on"),
    ("evaluate", {"batch_size": "500"}, "evaluate.batch_size: "),
]


@pytest.mark.parametrize(("stage", "edit", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_line(
    stage: str, edit: Any, said: str, prepared: Workspace, trained: Workspace
) -> None:
    shutil.copytree(trained.folder / "models", "models")
    prepared.change({stage: edit}) if isinstance(edit, dict) else edit[0](edit[1])
    before = {path: path.read_bytes() for path in (*files.TENSORS.iterdir(), *files.MODEL.parent.iterdir())}
    assert re.search(said, prepared.told(stage))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_export_that_fails_leaves_no_file(
    workspace: Workspace, finished: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("data", "models", "metrics", "plots"):
        shutil.copytree(finished.folder / folder, folder)
    for path in (files.ONNX, files.CARD):
        path.unlink()
    predict = onnx_export.predict_onnx
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "predict_onnx", lambda *given: predict(*given) * 1.01)
        with pytest.raises(onnx_export.DisagreementError, match=r"differ by .* is allowed.*same for 100.00%"):
            workspace.run("export")  # a bug of ours, which keeps its traceback
    monkeypatch.setattr(os, "fsync", no_space)
    assert "No space left on device" in workspace.told("export")
    assert not files.ONNX.exists()
    assert not files.CARD.exists()


LEAST: dict[str, Any] = {  # of what TINY does not have at its least
    "epochs": 1,
    "batch_size": 10,
    "optimizer": {"lr": 1e-8, "betas": [0, 0], "weight_decay": 0, "decay_all": False},
    "augmentation": {"flip": 0, "rotation": 0, "padding": 0},
}
MOST: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 60,
    "label_smoothing": 0.99,
    "ema_decay": 0.999,
    "precision": "bfloat16",
    "deterministic": False,
    "all_images": True,
    "zero_gamma": True,
    "schedule": {"shape": "cosine", "warmup": 0.99},
    "optimizer": {"lr": 10, "betas": [0.9999, 0.9999], "weight_decay": 10, "decay_all": True},
    "augmentation": {"flip": 1, "rotation": 180, "padding": 32, "cutout": 64},
    "mixing": {"cutmix": 0.5, "mixup": 0.5, "plain_epochs": 0},
}


@pytest.mark.parametrize("changes", [LEAST, MOST], ids=["least", "most"])
def test_the_ends_of_the_ranges_train(changes: dict[str, Any], prepared: Workspace) -> None:
    for name in ("train", "val"):
        tensors, about = files.read_tensors(files.tensors_path(name))
        few = {key: tensor[:60] for key, tensor in tensors.items()}
        files.write_tensors(files.tensors_path(name), few, about)
    prepared.change({"train": changes})
    prepared.run("train")
    assert files.MODEL.exists()


def test_any_text_can_be_printed_and_a_bar_needs_no_open_file(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
        patch.setattr(sys, "stderr", None)
        with command.one_line(), tqdm(total=1, disable=None) as bar:
            bar.update()
            print("고양이")
        assert printed.getvalue() == b"\\uace0\\uc591\\uc774\n"
        sys.stderr.close()


def test_usage_errors_have_status_2_help_has_0_and_a_traceback_comes_on_request(clone: Clone) -> None:
    stage = ("python", "-m", "stages.train")
    assert "unrecognized arguments: --epochs" in clone.run(*stage, "--epochs", status=2)
    assert "params.yaml" in clone.run(*stage, "--help")
    assert "Traceback" in clone.run(*stage, "--traceback", status=1)
    running, told = clone.run(*stage, status=1).splitlines()
    assert running.startswith("training on ")
    assert told.startswith("error: data/tensors/train.safetensors is missing")
