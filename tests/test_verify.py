"""`make verify` at a small size: it passes on the locked run and fails when the recipe is another."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Clone
from tools.verify import COMPARED, FIRST_EPOCHS


def test_the_first_epochs_that_set_the_tolerance_are_complete() -> None:
    measured = pd.DataFrame(json.loads(FIRST_EPOCHS.read_text()))[COMPARED]
    assert (measured.notna() & (measured > 0)).all(axis=None)
    assert (measured.max() > measured.min()).all()


@pytest.fixture
def published(finished: Clone, tmp_path: Path) -> Clone:
    """The finished clone as if it had been published from other hardware."""
    clone = finished.copy(tmp_path)
    hardware = {"device": "another one"}
    (clone.folder / "results/default.json").write_text(
        json.dumps({"runs": {"default-0": {"hardware": hardware}}})
    )
    apart = {"train_loss": 5e-4, "val_loss": 5e-4, "train_accuracy": 0.005, "val_accuracy": 0.005}
    (clone.folder / "results/verify.json").write_text(json.dumps([dict.fromkeys(apart, 0), apart]))
    return clone


def test_the_locked_run_is_repeated_to_the_last_digit(published: Clone, finished: Clone) -> None:
    printed = published.run("python", "-m", "tools.verify", "--epochs", "2")
    assert "identical: this machine repeats the published run to the last digit" in printed
    accuracy = json.loads(published.read("metrics/test.json"))["test_accuracy"]
    assert f"{accuracy:.2%} here, {accuracy:.2%} in metrics/test.json" in printed
    assert not published.dvc("diff").strip()
    assert published.read("logs/train.jsonl") == finished.read("logs/train.jsonl")


def test_another_recipe_in_the_code_is_found(published: Clone) -> None:
    path = published.folder / "src/cifar_resnet/training/augmentation.py"
    text = path.read_text()
    broken = text.replace("padding)  # (N, S): row", "padding + 1)  # (N, S): row")
    assert broken != text
    path.write_text(broken)
    printed = published.run("python", "-m", "tools.verify", status=1)
    assert "device: another one in the published run, cpu" in printed
    assert "outside the tolerance" in printed


def test_a_small_difference_is_allowed_on_other_hardware_alone(published: Clone) -> None:
    path = published.folder / "plots/history.csv"
    lock = published.folder / "dvc.lock"
    before = published.run("md5sum", "plots/history.csv").split()[0]
    first, second = (float(line.split(",")[1]) for line in path.read_text().splitlines()[1:3])
    path.write_text(
        path.read_text().replace(repr(first), repr(first + 1e-5)).replace(repr(second), repr(second + 1))
    )
    after = published.run("md5sum", "plots/history.csv").split()[0]
    lock.write_text(lock.read_text().replace(before, after))  # as if that row had been published
    assert "within what other hardware" in published.run("python", "-m", "tools.verify", "--epochs", "2")
    facts = [json.loads(line) for line in published.read("logs/train.jsonl").decode().splitlines()]
    hardware = next(record for record in reversed(facts) if "device" in record)
    reference = {"runs": {"default-0": {"hardware": hardware}}}
    (published.folder / "results/default.json").write_text(json.dumps(reference))
    assert "this code trains something else" in published.run("python", "-m", "tools.verify", status=1)


def test_other_data_params_and_weights_are_said_at_once(published: Clone) -> None:
    content = bytearray(published.read("models/resnet50.safetensors"))
    (published.folder / "models/resnet50.safetensors").unlink()
    (published.folder / "models/resnet50.safetensors").write_bytes(content[:-1])
    assert "the published weights are not here" in published.run("python", "-m", "tools.verify")
    published.change({"train": {"patience": 9}})
    printed = published.run("python", "-m", "tools.verify", status=1)
    assert printed.startswith("error: params.yaml's train section is not the one in dvc.lock")
    published.change({"train": {"patience": 10}})
    path = published.folder / "data/tensors/val.safetensors"
    other = (published.folder / "data/tensors/test.safetensors").read_bytes()
    path.unlink()
    path.write_bytes(other)
    assert "not the data of the published run" in published.run("python", "-m", "tools.verify", status=1)
    path.unlink()
    assert "val.safetensors is missing" in published.run("python", "-m", "tools.verify", status=1)
