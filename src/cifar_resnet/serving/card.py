"""The model card: a page in Hugging Face's format about one trained network, made of its own figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import StrictUndefined, Template

from cifar_resnet import markdown, params
from cifar_resnet.network.base import Network
from cifar_resnet.network.classifier import image_size

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
METRICS = {  # of metrics/test.json: Hugging Face's name and ours
    "test_accuracy": ("accuracy", "Accuracy"),
    "test_accuracy_with_flip": ("accuracy", "Accuracy, averaged with mirror images"),
    "test_f1": ("f1", "Macro F1"),
    "test_loss": ("loss", "Cross-entropy"),
    "test_ece": ("expected_calibration_error", "Expected calibration error"),
}
SHARES = {  # of the test images, in the table of results
    "test_f1": "macro F1, %",
    "test_accuracy_with_flip": "accuracy with mirror images, %",
    "test_deduplicated": "accuracy without near-duplicates of training images, %",
}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "made-up shapes", "folder": "own pictures"}


def model_card(
    network: Network,
    dataset: str,
    hyperparameters: dict[str, Any],
    about: Mapping[str, Any],
    results: Mapping[str, Any],
    per_class: pd.DataFrame,
    digests: Mapping[str, str],
) -> str:
    """Return the card as Markdown with a YAML head.

    `network`: tells its name and what it is; `dataset`: cifar10, synthetic or folder; `hyperparameters`: the
    train section of params.yaml; `about`: the model file's description; `results`: the metrics of all stages
    by name; `per_class`: class and accuracy; `digests`: SHA-256 by file name.
    """
    what = ("the weights", f"network and normalization, ONNX opset {results['onnx_opset']}")
    files = [(name, text, f"`{digests[name]}`") for name, text in zip(digests, what, strict=True)]
    flat = params.flatten(hyperparameters)
    settings = [(f"`{name}`", f"`{json.dumps(value)}`") for name, value in flat.items()]
    classes = list(zip(per_class["class"], per_class["accuracy"].map(_percent), strict=True))
    template: Template = Template(TEMPLATE.read_text(), undefined=StrictUndefined, keep_trailing_newline=True)
    return template.render(
        head=_head(dataset, network, hyperparameters["model"]["name"], results),
        network=network,
        dataset=dataset,
        dataset_name=DATASETS[dataset],
        hyperparameters=hyperparameters,
        results=results,
        percent=_percent,
        files_table=_table(files, "file", "what it is", "SHA-256"),
        hyperparameter_table=_table(settings, "name", "value"),
        results_table=_table(_results(results), "", "train", "validation", "test", numbers=3),
        per_class_table=_table(classes, "class", "test accuracy, %", numbers=1),
        image_size=image_size(about),
        classes=[name.translate(markdown.ESCAPES) for name in about["classes"]],
        normalization=about["normalization"],
    )


def _head(dataset: str, network: Network, kind: str, results: Mapping[str, Any]) -> str:
    """The YAML that Hugging Face reads, with the results as a model-index.

    https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    name, task = DATASETS[dataset], "image-classification"
    source = {"name": name, "type": "imagefolder" if dataset == "folder" else dataset, "split": "test"}
    known = [(key, *titles) for key, titles in METRICS.items() if key in results]
    metrics = [{"type": kind, "value": results[key], "name": title} for key, kind, title in known]
    measured = {"task": {"type": task}, "dataset": source, "metrics": metrics}
    head: dict[str, Any] = {"datasets": ["cifar10"]} if dataset == "cifar10" else {}
    head |= {"library_name": "pytorch", "license": "mit", "metrics": ["accuracy"], "pipeline_tag": task}
    head |= {"tags": [task, kind, "pytorch", "onnx", "safetensors", "dvc"]}
    head |= {"model-index": [{"name": f"{network.name} for {name}", "results": [measured]}]}
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True))


def _results(results: Mapping[str, Any]) -> list[list[str]]:
    splits = ("train", "val", "test")
    return [
        ["accuracy, %", *(_percent(results[f"{split}_accuracy"]) for split in splits)],
        ["cross-entropy", *(f"{results[f'{split}_loss']:.4f}" for split in splits)],
        *([title, "", "", _percent(results[key])] for key, title in SHARES.items() if key in results),
    ]


def _table(rows: Sequence[Sequence[str]], *columns: str, numbers: int = 0) -> str:
    """The last `numbers` columns are set to the right."""
    return markdown.table(pd.DataFrame(rows, columns=columns), right=columns[len(columns) - numbers :])


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
