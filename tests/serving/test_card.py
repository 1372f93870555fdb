"""The model card: its figures are the metrics', and its code runs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jinja2 import UndefinedError
from PIL import Image
from ruamel.yaml import YAML

from cifar_resnet import files, params
from cifar_resnet.network.classifier import read_classifier
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig
from cifar_resnet.serving import onnx_export
from cifar_resnet.serving.card import model_card
from tests.serving.conftest import CLASSES
from tools.scratch import ROOT

TRAIN: dict[str, Any] = YAML(typ="safe").load(ROOT / "recipes/original.yaml")["train"]
ABOUT = {"model": TRAIN["model"], "normalization": TRAIN["normalization"], "classes": CLASSES}
RESULTS: dict[str, Any] = yaml.safe_load("""
    {train_images: 45000, val_images: 5000, test_images: 10000, best_epoch: 37, epochs: 47,
    train_loss: 0.11111, train_accuracy: 0.96111, val_loss: 0.22222, val_accuracy: 0.92222,
    stopped: no better validation accuracy in 10 epochs, test_accuracy: 0.9092, test_ci_low: 0.90341,
    test_ci_high: 0.91468, test_loss: 0.33333, test_f1: 0.9088, test_ece: 0.0456, test_deduplicated: 0.9071,
    onnx_images: 1000, onnx_agreement: 1.0, onnx_logit_difference: 1.9e-5, onnx_opset: 20, onnx_bytes: 9400}
""")
PER_CLASS = pd.DataFrame({"class": CLASSES, "accuracy": [0.8 + index / 100 for index in range(10)]})
INPUTS = '{"images": images.numpy()}'  # the one pair of braces in the code
DIGESTS = {"resnet50.safetensors": "a" * 64, "resnet50.onnx": "b" * 64}


def written(dataset: str = "cifar10", per_class: pd.DataFrame = PER_CLASS, **changes: Any) -> str:
    """The card of a full-size network, with some arguments changed."""
    given = {"hyperparameters": TRAIN, "about": ABOUT, "results": RESULTS, "digests": DIGESTS}
    arguments = {key: values | changes.get(key, {}) for key, values in given.items()}
    with torch.device("meta"):
        network = ResNet(ResNetConfig(**TRAIN["model"]), 10)
    return model_card(network, dataset, per_class=per_class, **arguments)


def cells(card: str) -> list[list[str]]:
    """The rows of all tables."""
    rows = [line.strip("|").split("|") for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("dataset", ["cifar10", "synthetic", "folder"])
def test_the_page_is_plain_markdown(dataset: str) -> None:
    flip = {"test_accuracy_with_flip": 0.9} if dataset == "synthetic" else {}
    page = written(dataset, results=flip, hyperparameters={"all_images": dataset == "folder"})
    assert not re.search(r"\n\n\n|[ \t]\n|[{}]|undefined|nan", page.replace(INPUTS, ""))
    assert page.endswith("```\n")
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_head_is_what_hugging_face_reads() -> None:
    """As huggingface_hub 2.4 wrote it from its own classes for the same results."""
    head, own = (
        yaml.safe_load(written(dataset, results={"test_accuracy_with_flip": 0.9111}).split("---\n", 2)[1])
        for dataset in ("cifar10", "folder")
    )
    (measured,) = head.pop("model-index")[0]["results"]
    assert head == {
        "datasets": ["cifar10"],
        "library_name": "pytorch",
        "license": "mit",
        "metrics": ["accuracy"],
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet", "pytorch", "onnx", "safetensors", "dvc"],
    }
    assert measured.pop("metrics") == [
        {"type": kind, "value": value, "name": name}
        for kind, value, name in (
            ("accuracy", 0.9092, "Accuracy"),
            ("accuracy", 0.9111, "Accuracy, averaged with mirror images"),
            ("f1", 0.9088, "Macro F1"),
            ("loss", 0.33333, "Cross-entropy"),
            ("expected_calibration_error", 0.0456, "Expected calibration error"),
        )
    ]
    dataset = {"name": "CIFAR-10", "type": "cifar10", "split": "test"}
    assert measured == {"task": {"type": "image-classification"}, "dataset": dataset}
    assert "datasets" not in own
    assert own["model-index"][0]["results"][0]["dataset"]["type"] == "imagefolder"


def test_the_names_of_classes_are_text_whatever_they_hold() -> None:
    names = ["a|b", "<b>", "`c`"]
    per_class = pd.DataFrame({"class": names, "accuracy": [0.5, 0.25, 1]})
    page = written("folder", about={"classes": names}, per_class=per_class)
    assert r"Its 3 classes are a\|b, &lt;b>, `c`." in page
    for row in (r"| a\|b | 50.00 |", "| &lt;b> | 25.00 |"):
        assert f"\n{row}\n" in page


def test_a_result_that_is_not_there_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RESULTS, "stopped")
    with pytest.raises(UndefinedError, match="stopped"):
        written()


def test_the_tables_hold_every_result_and_every_hyperparameter() -> None:
    rows = cells(written())
    for row in (
        ["accuracy, %", "96.11", "92.22", "90.92"],
        ["cross-entropy", "0.1111", "0.2222", "0.3333"],
        ["macro F1, %", "", "", "90.88"],
        ["accuracy without near-duplicates of training images, %", "", "", "90.71"],
        *([name, f"{80 + index}.00"] for index, name in enumerate(CLASSES)),
    ):
        assert row in rows
    told = {row[0]: row[1] for row in rows if re.fullmatch(r"`[\w.]+`", row[0])}
    assert told == {f"`{name}`": f"`{json.dumps(value)}`" for name, value in params.flatten(TRAIN).items()}
    assert {(name, f"`{digest}`") for name, digest in DIGESTS.items()} <= {(row[0], row[-1]) for row in rows}


@pytest.mark.slow
def test_the_code_for_three_ways_of_use_runs_and_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ResNetConfig(**TRAIN["model"])
    model = build_model(size, 10, torch.Generator().manual_seed(0))
    files.write_tensors(Path("resnet50.safetensors"), model.state_dict(), ABOUT)
    classifier = read_classifier(Path("resnet50.safetensors"), torch.device("cpu"))
    proto = onnx_export.export_onnx(classifier.model, classifier.normalization, {"class_names": CLASSES}, 32)
    Path("resnet50.onnx").write_bytes(proto.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")

    picture, *ways = re.findall(r"```python\n(.*?)```", written(), re.DOTALL)
    logits = []
    for way in ways:
        names: dict[str, Any] = {}
        exec(picture + way, names)
        assert names["images"].shape == (1, 3, 32, 32)
        logits.append(torch.as_tensor(names["logits"]))
    assert len(logits) == 3
    assert logits[0].abs().max() > 1
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-5, atol=1e-4)
    assert capsys.readouterr().out.split() == [CLASSES[logits[0].argmax()]] * 2
