"""Train the first epochs of the published run again and compare them with plots/history.csv, digit for digit.

The run is the one that dvc.lock records: the same tensors, the same params. On the hardware and versions of
the published run every digit has to be the same. On others the first epoch may differ by twice what measured
ones differ by (results/verify.json); later epochs drift apart from rounding alone and are only shown.
Nothing is written. When the published weights are there, their test accuracy is computed again, too.
"""

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cifar_resnet import files
from cifar_resnet.evaluation.metrics import accuracy
from cifar_resnet.files.params import UserError
from cifar_resnet.images import Images, concatenate
from cifar_resnet.network.classifier import read_classifier
from cifar_resnet.network.inference import predict_all
from cifar_resnet.process import command, hardware
from cifar_resnet.process.progress import Progress
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import history_table, new_state

HISTORY = Path("plots/history.csv")
RECORD = Path("results/default.json")
FIRST_EPOCHS = Path("results/verify.json")  # of the original recipe, on different hardware
ACCURACY_TOLERANCE = 0.0005  # of the weights' test accuracy: five images of 10,000
COMPARED = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
FACTS = ("device", "processor", "instructions", "threads", "torch", "cudnn", "precision", "compiled")


def locked(path: Path, entries: list[dict[str, str]]) -> bool:
    """Return whether a file is the one of dvc.lock's `entries`; False when it is missing."""
    digest = next(entry["md5"] for entry in entries if entry["path"] == str(path))
    if not path.exists():
        return False
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == digest  # DVC's choice


def check_inputs() -> TrainConfig:
    """Return the locked run's config. Raises UserError when params or data here are not those of the lock."""
    stages = files.read_yaml(Path("dvc.lock"))["stages"]
    if "train" not in stages:
        raise UserError("dvc.lock has no train stage: no run has been published here yet")
    lock = stages["train"]
    config = files.read_params("train", TrainConfig)
    if lock["params"]["params.yaml"]["train"] != files.read_section("train"):
        raise UserError(
            "params.yaml's train section is not the one in dvc.lock;"
            " `git checkout params.yaml dvc.lock` brings the published ones back"
        )
    for name in ("train", "val"):
        path = files.tensors_path(name)
        if not locked(path, lock["deps"]):
            raise UserError(
                f"{path} is {'not the data of the published run' if path.exists() else 'missing'};"
                " `dvc repro preprocess` makes it"
            )
    if not locked(HISTORY, lock["outs"]):
        raise UserError(f"{HISTORY} is not the one in dvc.lock; `git checkout {HISTORY}` brings it back")
    return config


def train(config: TrainConfig, epochs: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the history of the first `epochs` epochs, trained here, and the facts about this machine."""
    chosen = hardware.prepare(config)
    target, dtype, compiled = chosen
    (train_tensors, about), (val_tensors, _) = (
        files.read_tensors(files.tensors_path(name)) for name in ("train", "val")
    )
    images, val = Images(**train_tensors), Images(**val_tensors)
    images = concatenate([images, val]) if config.all_images else images
    state = new_state(config, len(about["classes"]), target, dtype)
    loop = fit(state, config, images.to(target), val.to(target), dtype, compiled)
    with Progress(state, config, len(images.labels), facts=None) as progress:
        while state.epoch < epochs:
            progress.update(*next(loop))
    return history_table(state), chosen.facts()


def compare(here: pd.DataFrame, facts: dict[str, Any]) -> bool:
    """Print the published epochs beside those of this machine; return whether they agree as they have to."""
    published = pd.read_csv(HISTORY, dtype=str).head(len(here))
    ours = pd.read_csv(io.StringIO(here.to_csv(index=False)), dtype=str)
    shown = pd.concat({"published": published.T, "here": ours.T}, axis=1)
    print(shown.to_string())
    if ours.equals(published):
        print("identical: this machine repeats the published run to the last digit")
        return True
    run = next(iter(json.loads(RECORD.read_text())["runs"].values()))
    other = [name for name in FACTS if facts.get(name) != run["hardware"].get(name)]
    if not other:
        print("different, on the hardware and versions of the published run: this code trains something else")
        return False
    for name in other:
        print(f"{name}: {run['hardware'].get(name)} in the published run, {facts.get(name)} here")
    measured = pd.DataFrame(json.loads(FIRST_EPOCHS.read_text()))[COMPARED]
    first = pd.DataFrame(
        {
            "difference": (ours.astype(float) - published.astype(float)).abs().loc[0, COMPARED],
            "allowed": 2 * (measured.max() - measured.min()),
        }
    )
    print(f"epoch 1:\n{first.to_string(float_format='{:.2g}'.format)}")
    within = bool((first["difference"] <= first["allowed"]).all())
    print("within what other hardware and versions change" if within else "outside the tolerance")
    return within


def check_weights() -> bool:
    """Return whether the published weights, if they are here, reach the published test accuracy."""
    stages = files.read_yaml(Path("dvc.lock"))["stages"]
    test = files.tensors_path("test")
    if not locked(files.MODEL, stages["train"]["outs"]) or not test.exists():
        print("the published weights are not here: `dvc pull -r released models/resnet50.safetensors`")
        return True
    model, normalization, *_ = read_classifier(files.MODEL, torch.device("cpu"))
    tensors, _ = files.read_tensors(test)
    logits = predict_all(model, tensors["images"].split(500), normalization, torch.float32)
    here, there = accuracy(logits, tensors["labels"]), files.read_metrics("test")["test_accuracy"]
    print(f"test accuracy of the published weights: {here:.2%} here, {there:.2%} in metrics/test.json")
    return bool(abs(here - there) <= ACCURACY_TOLERANCE)


def main() -> None:
    """Check, train, compare."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("--epochs", type=int, default=1, help="how many (default: %(default)s)")
    epochs = parser.parse_args().epochs
    with command.one_line():
        config = check_inputs()
        published = len(pd.read_csv(HISTORY))
        if not 1 <= epochs <= published:
            raise UserError(f"--epochs must be 1 to {published}, the published run's (it is {epochs})")
        well = compare(*train(config, epochs))
        well = check_weights() and well
    sys.exit(not well)


if __name__ == "__main__":
    main()
