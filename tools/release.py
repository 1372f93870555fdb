"""Offer the trained network with the repository: its weights in half precision, in a DVC remote inside git.

First they have to prove themselves here, on the CPU: the accuracy on the test images must be that of
metrics/test.json within 0.05 points, before and after rounding.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from ruamel.yaml import YAML

from cifar_resnet import inference, tensorfile
from cifar_resnet.classifier import read_classifier
from stages import files

WEIGHTS = Path("released/resnet50.safetensors")
REMOTE = "released"
STORE = "released/store"
TOLERANCE = 0.0005


def accuracy(path: Path) -> float:
    """Return the accuracy of a model file on the test images, computed in float32 on the CPU."""
    model, normalization, _ = read_classifier(path, torch.device("cpu"))
    test = files.open_tensors(files.tensors_path("test"))
    labels = torch.cat(list(test.batches("labels", 500)))
    logits = inference.predict_all(model, test.batches("images", 500), normalization, torch.float32)
    return float((logits.argmax(1) == labels).double().mean())


def check(path: Path) -> None:
    """Print a model file's accuracy here beside the one of metrics/test.json; exit when they differ."""
    here, there = accuracy(path), files.read_metrics("test")["accuracy"]
    print(f"{path}: {here:.2%} of the test images here, {there:.2%} in metrics/test.json")
    if abs(here - there) > TOLERANCE:
        sys.exit(f"error: {path} does not do here what metrics/test.json says")


def dvc(*arguments: str) -> None:
    """Run DVC, which says itself why it fails."""
    if status := subprocess.run([sys.executable, "-m", "dvc", *arguments]).returncode:
        sys.exit(status)


def main() -> None:
    """Check, round, check, add, push."""
    argparse.ArgumentParser(prog="python -m tools.release", description=__doc__).parse_args()
    check(files.MODEL)
    weights, about = tensorfile.read(files.MODEL)
    del about["sha256"]  # of the file
    WEIGHTS.parent.mkdir(exist_ok=True)
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    tensorfile.write(WEIGHTS, half, about)
    check(WEIGHTS)
    dvc("remote", "add", "--quiet", "--force", REMOTE, STORE)
    dvc("add", "--quiet", str(WEIGHTS))
    yaml, added = YAML(), Path(f"{WEIGHTS}.dvc")
    document = yaml.load(added)
    document["outs"][0]["remote"] = REMOTE  # whatever the default remote is
    yaml.dump(document, added)
    dvc("push", "--quiet", str(added))
    print(f"git add .dvc/config released; then, in any clone: dvc pull {WEIGHTS}")


if __name__ == "__main__":
    main()
