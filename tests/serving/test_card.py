"""The model card: its figures are the metrics', and its code runs."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from ruamel.yaml import YAML

from cifar_resnet import files
from cifar_resnet.network.classifier import read_classifier
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig
from cifar_resnet.serving import onnx_export
from cifar_resnet.serving.card import model_card
from tools.scratch import ROOT

TRAIN: dict[str, Any] = YAML(typ="safe").load(ROOT / "recipes/original.yaml")["train"]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ABOUT = {"model": TRAIN["model"], "normalization": TRAIN["normalization"], "classes": CLASSES}
RESULTS: dict[str, Any] = {
    "train_images": 45000,
    "val_images": 5000,
    "test_images": 10000,
    "best_epoch": 37,
    "train_loss": 0.11111,
    "train_accuracy": 0.96111,
    "val_loss": 0.22222,
    "val_accuracy": 0.92222,
    "epochs": 47,
    "stopped": "no better validation accuracy in 10 epochs",
    "test_accuracy": 0.9092,
    "test_ci_low": 0.90341,
    "test_ci_high": 0.91468,
    "test_loss": 0.33333,
    "test_f1": 0.9088,
    "test_ece": 0.0456,
    "test_deduplicated": 0.9071,
    "onnx_images": 1000,
    "onnx_agreement": 1.0,
    "onnx_logit_difference": 1.9e-5,
    "onnx_opset": 20,
    "onnx_bytes": 94_000_000,
}
PER_CLASS = pd.DataFrame({"class": CLASSES, "accuracy": [0.8 + index / 100 for index in range(10)]})
INPUTS = '{"images": images.numpy()}'  # the one pair of braces in the code
DIGESTS = {"resnet50.safetensors": "a" * 64, "resnet50.onnx": "b" * 64}


def written(dataset: str = "cifar10", **changes: Any) -> str:
    """The card of a full-size network, with some arguments changed."""
    given = {"hyperparameters": TRAIN, "about": ABOUT, "results": RESULTS, "digests": DIGESTS}
    arguments = {key: values | changes.get(key, {}) for key, values in given.items()}
    with torch.device("meta"):
        network = ResNet(ResNetConfig(**TRAIN["model"]), 10)
    return model_card(network, dataset, per_class=PER_CLASS, **arguments)


def cells(card: str) -> list[list[str]]:
    """The rows of all tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        ("cifar10", {}),
        ("synthetic", {"results": {"test_accuracy_with_flip": 0.9}}),
        ("folder", {"hyperparameters": {"all_images": True}}),
    ],
)
def test_the_page_is_plain_markdown(dataset: str, changes: dict[str, Any]) -> None:
    page = written(dataset=dataset, **changes)
    assert not re.search(r"\n\n\n|[ \t]\n|[{}]|undefined|nan", page.replace(INPUTS, ""))
    assert page.endswith("```\n")
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_head_is_what_hugging_face_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # nothing asks the network
    head: Any = ModelCard(written()).data
    assert (head.license, head.library_name, head.pipeline_tag) == ("mit", "pytorch", "image-classification")
    assert head.datasets == ["cifar10"]
    assert head.model_name == "ResNet50 for CIFAR-10"
    found = {result.metric_name: result.metric_value for result in head.eval_results}
    assert found == {
        "Accuracy": 0.9092,
        "Macro F1": 0.9088,
        "Cross-entropy": 0.33333,
        "Expected calibration error": 0.0456,
    }
    assert {(r.dataset_type, r.dataset_split) for r in head.eval_results} == {("cifar10", "test")}


def test_the_tables_hold_every_result_and_every_hyperparameter() -> None:
    rows = cells(written())
    assert ["accuracy, %", "96.11", "92.22", "90.92"] in rows
    assert ["cross-entropy", "0.1111", "0.2222", "0.3333"] in rows
    assert ["macro F1, %", "", "", "90.88"] in rows
    assert ["accuracy without near-duplicates of training images, %", "", "", "90.71"] in rows
    for index, name in enumerate(CLASSES):
        assert [name, f"{80 + index}.00"] in rows
    for name, value in {"epochs": 50, "optimizer.lr": 0.001, "model.blocks": [3, 4, 6, 3]}.items():
        assert [f"`{name}`", f"`{json.dumps(value)}`"] in rows
    leaves = sum(len(value) if isinstance(value, dict) else 1 for value in TRAIN.values())
    assert len([row for row in rows if re.fullmatch(r"`[\w.]+`", row[0])]) == leaves
    for file, digest in DIGESTS.items():
        assert [file, f"`{digest}`"] in [[row[0], row[-1]] for row in rows]


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


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

    picture, *ways = blocks(written())
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
