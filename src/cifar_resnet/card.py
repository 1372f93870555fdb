"""The model card: a page in Hugging Face's format about one trained network, made of its own figures."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

METRICS = {  # of metrics/test.json: Hugging Face's name and ours
    "accuracy": ("accuracy", "Accuracy"),
    "accuracy_with_flip": ("accuracy", "Accuracy, averaged with mirror images"),
    "macro_f1": ("f1", "Macro F1"),
    "loss": ("loss", "Cross-entropy"),
    "expected_calibration_error": ("expected_calibration_error", "Expected calibration error"),
}
DATASETS = {"cifar10": "CIFAR-10", "synthetic": "made-up shapes"}
LIMITATIONS = {
    "cifar10": """\
- The labels hold errors, in about 0.5 % of the test images ([Northcutt et al. 2021](https://arxiv.org/abs/2103.14749)).
- About 3.3 % of the test images have near-duplicates among the training images
  ([Barz and Denzler 2020](https://arxiv.org/abs/1902.00423)), so test accuracy flatters a little.
- New photographs are harder, even those chosen in CIFAR-10's way: networks of this kind lost 4 to 10 points
  ([Recht et al. 2018](https://arxiv.org/abs/1806.00451)).""",
    "synthetic": "- The images are drawings for a demonstration. The network is of no use on photographs.",
}
IMAGES = """\
import numpy as np
import torch
from PIL import Image

image = Image.open("image.png").convert("RGB").resize((32, 32))
images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, 32, 32) uint8
"""
OURS = """\
from pathlib import Path

from cifar_resnet.classifier import read_classifier
from cifar_resnet.inference import forward

classifier = read_classifier(Path("resnet50.safetensors"), torch.device("cpu"))  # checks the SHA-256 in it
with torch.inference_mode():
    logits = forward(classifier.model, images, classifier.normalization, torch.float32)
print(classifier.class_names[logits[0].argmax()])
"""
TORCHVISION = """\
from safetensors.torch import load_file
from torchvision.models import resnet50

model = resnet50(num_classes={classes})
model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
model.maxpool = torch.nn.Identity()
model.load_state_dict(load_file("resnet50.safetensors"))
model.eval()
mean = torch.tensor({mean}).view(3, 1, 1)
std = torch.tensor({std}).view(3, 1, 1)
with torch.inference_mode():
    logits = model((images / 255 - mean) / std)
"""
ONNX = """\
import json

import onnxruntime

session = onnxruntime.InferenceSession("resnet50.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(["logits"], {"images": images.numpy()})
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
print(class_names[logits[0].argmax()])
"""


def model_card(
    dataset: str,
    hyperparameters: Mapping[str, Any],
    about: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    digests: Mapping[str, str],
) -> str:
    """Return the card as Markdown with a YAML head.

    `dataset`: cifar10 or synthetic; `hyperparameters`: the train section of params.yaml; `about`: the model
    file's description; `metrics`: by name, data, train, test and export; `digests`: SHA-256 by file name.
    """
    name = f"ResNet{3 * sum(about['model']['blocks']) + 2}"
    sections = [
        f"# {name} for {DATASETS[dataset]}",
        _network(dataset, about),
        _files(metrics["export"], digests),
        "## Training",
        _training(hyperparameters, metrics["data"]["images"], metrics["train"]),
        "## Results",
        _results(metrics["data"]["images"], metrics["train"], metrics["test"]),
        "## Limitations",
        _limitations(dataset, about["classes"]),
        "## Use",
        _use(about),
    ]
    head = _head(dataset, name, metrics["test"]).to_yaml()
    return str(ModelCard(f"---\n{head}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _head(dataset: str, name: str, test: Mapping[str, Any]) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=DATASETS[dataset],
            dataset_split="test",
            metric_type=kind,
            metric_name=title,
            metric_value=test[key],
        )
        for key, (kind, title) in METRICS.items()
        if key in test
    ]
    return ModelCardData(
        license="mit",
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=["image-classification", "resnet", "pytorch", "onnx", "safetensors", "dvc"],
        datasets=["cifar10"] if dataset == "cifar10" else None,
        metrics=["accuracy"],
        model_name=f"{name} for {DATASETS[dataset]}",
        eval_results=results,
    )


def _network(dataset: str, about: Mapping[str, Any]) -> str:
    blocks, width, classes = about["model"]["blocks"], about["model"]["width"], about["classes"]
    return f"""\
A bottleneck ResNet (blocks {blocks}, width {width}) for images of 32 x 32 pixels: its stem is a 3x3
convolution with stride 1, without max-pooling. Trained from random weights with AdamW, on {DATASETS[dataset]}
alone, it tells {len(classes)} classes apart: {", ".join(classes)}."""


def _files(export: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    difference = export["max_abs_logit_difference"]
    what = {
        "resnet50.safetensors": "the weights",
        "resnet50.onnx": f"network and normalization, ONNX opset {export['opset']}",
    }
    return f"""\
{_table(("file", "what it is", "SHA-256"), ((file, what[file], f"`{digests[file]}`") for file in what))}

In float32, PyTorch and ONNX Runtime give the same top class to {_percent(export["top1_agreement"])} % of the
first {export["images"]:,} test images; their logits differ by {difference:.1e} at most."""


def _training(hyperparameters: Mapping[str, Any], images: Mapping[str, int], train: Mapping[str, Any]) -> str:
    rows = ((f"`{name}`", f"`{json.dumps(value)}`") for name, value in _flat(hyperparameters))
    trained, validated = f"{images['train']:,}", f"{images['val']:,}"
    kept = f"epoch {train['best_epoch']} of {train['epochs']} ({train['stopped']})"
    if hyperparameters["all_images"]:
        way = f"""\
Trained on {trained} images and on the {validated} validation images too, whose accuracy therefore says
nothing new. Kept is the last epoch, {kept}."""
    else:
        way = f"""\
Trained on {trained} images. Kept is {kept}, the best one on {validated} other images, for validation."""
    return f"""\
{way}

The hyperparameters, by their names in the train section of the repository's `params.yaml`:

{_table(("name", "value"), rows)}"""


def _results(images: Mapping[str, int], train: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    accuracies = (train["train_accuracy"], train["val_accuracy"], test["accuracy"])
    losses = (train["train_loss"], train["val_loss"], test["loss"])
    overall = [
        ("accuracy, %", *map(_percent, accuracies)),
        ("cross-entropy", *(f"{loss:.4f}" for loss in losses)),
        ("macro F1, %", "", "", _percent(test["macro_f1"])),
    ]
    if "accuracy_with_flip" in test:
        overall.append(("accuracy with mirror images, %", "", "", _percent(test["accuracy_with_flip"])))
    if "accuracy_without_near_duplicates" in test:
        alone = _percent(test["accuracy_without_near_duplicates"])
        overall.append(("accuracy without near-duplicates of training images, %", "", "", alone))
    per_class = ((name, _percent(value)) for name, value in test["per_class_accuracy"].items())
    return f"""\
The {images["test"]:,} test images were read once training was over. Training images count as training saw
them, augmented.

{_table(("", "train", "validation", "test"), overall)}

{_table(("class", "test accuracy, %"), per_class)}

Calibration: the network's confidence and the share of its right answers differ by
{_percent(test["expected_calibration_error"])} points on average (expected calibration error on the test
images, 15 bins of the top probability, [Guo et al. 2017](https://arxiv.org/abs/1706.04599))."""


def _limitations(dataset: str, classes: list[str]) -> str:
    return f"""\
- It sees 32 x 32 pixels. Larger pictures have to be made smaller, and what is small in them is lost.
- It answers with one of its {len(classes)} classes, whatever the picture shows: it cannot say that it does
  not know.
{LIMITATIONS[dataset]}"""


def _use(about: Mapping[str, Any]) -> str:
    ways = [
        ("In the folder of the two files, a picture as all that follows wants it, read with Pillow:", IMAGES),
        ("With the library of the repository, installed by `pip install .` in a clone:", OURS),
    ]
    if about["model"] == {"width": 64, "blocks": [3, 4, 6, 3]}:  # torchvision has this size alone
        code = TORCHVISION.format(classes=len(about["classes"]), **about["normalization"])
        ways.append(("With torchvision, whose `resnet50` has the same parameter names:", code))
    ways.append(("With ONNX Runtime; the normalization is in the file:", ONNX))
    return "\n\n".join(f"{title}\n\n```python\n{code}```" for title, code in ways)


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
