"""The model card: a page in Hugging Face's format about one trained network, made of its own figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cifar_resnet.network.classifier import image_size
from cifar_resnet.network.network import Network

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
METRICS = {  # of metrics/test.json: Hugging Face's name and ours
    "test_accuracy": ("accuracy", "Accuracy"),
    "test_accuracy_with_flip": ("accuracy", "Accuracy, averaged with mirror images"),
    "test_f1": ("f1", "Macro F1"),
    "test_loss": ("loss", "Cross-entropy"),
    "test_ece": ("expected_calibration_error", "Expected calibration error"),
}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "made-up shapes", "folder": "own pictures"}
KINDS = {"folder": "imagefolder"}  # Hugging Face's names


def model_card(
    network: Network,
    dataset: str,
    hyperparameters: Mapping[str, Any],
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
    card = ModelCard.from_template(
        _head(dataset, network, hyperparameters["model"]["name"], results),
        template_path=str(TEMPLATE),
        network=network,
        dataset=dataset,
        dataset_name=DATASETS[dataset],
        hyperparameters=hyperparameters,
        results=results,
        percent=_percent,
        files_table=_files(results, digests),
        hyperparameter_table=_hyperparameters(hyperparameters),
        results_table=_results(results),
        per_class_table=_markdown(
            pd.DataFrame(
                {"class": per_class["class"], "test accuracy, %": per_class["accuracy"].map(_percent)}
            ),
            numbers=1,
        ),
        image_size=image_size(about),
        classes=about["classes"],
        normalization=about["normalization"],
    )
    return f"{card}\n"


def _head(dataset: str, network: Network, kind: str, results: Mapping[str, Any]) -> ModelCardData:
    return ModelCardData(
        license="mit",
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["image-classification", kind, "pytorch", "onnx", "safetensors", "dvc"],
        datasets=["cifar10"] if dataset == "cifar10" else None,
        metrics=["accuracy"],
        model_name=f"{network.name} for {DATASETS[dataset]}",
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=KINDS.get(dataset, dataset),
                dataset_name=DATASETS[dataset],
                dataset_split="test",
                metric_type=kind,
                metric_name=title,
                metric_value=results[key],
            )
            for key, (kind, title) in METRICS.items()
            if key in results
        ],
    )


def _files(results: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    what = {
        "resnet50.safetensors": "the weights",
        "resnet50.onnx": f"network and normalization, ONNX opset {results['onnx_opset']}",
    }
    rows = [(name, what[name], f"`{digest}`") for name, digest in digests.items()]
    return _markdown(pd.DataFrame(rows, columns=["file", "what it is", "SHA-256"]))


def _hyperparameters(section: Mapping[str, Any]) -> str:
    flat = pd.json_normalize(dict(section)).iloc[0].to_dict()
    rows = [(f"`{name}`", f"`{json.dumps(value)}`") for name, value in flat.items()]
    return _markdown(pd.DataFrame(rows, columns=["name", "value"]))


def _results(results: Mapping[str, Any]) -> str:
    splits = {"train": "train", "validation": "val", "test": "test"}
    accuracy = {split: _percent(results[f"{key}_accuracy"]) for split, key in splits.items()}
    loss = {split: f"{results[f'{key}_loss']:.4f}" for split, key in splits.items()}
    rows = {"accuracy, %": accuracy, "cross-entropy": loss}
    others = {
        "test_f1": "macro F1, %",
        "test_accuracy_with_flip": "accuracy with mirror images, %",
        "test_deduplicated": "accuracy without near-duplicates of training images, %",
    }
    rows |= {title: {"test": _percent(results[key])} for key, title in others.items() if key in results}
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("").reset_index()
    return _markdown(table, numbers=3)


def _markdown(table: pd.DataFrame, numbers: int = 0) -> str:
    """The last `numbers` columns are set to the right."""
    sides = ["left"] * (table.shape[1] - numbers) + ["right"] * numbers
    return table.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
