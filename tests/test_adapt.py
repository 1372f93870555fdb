"""docs/adapt.md as a reader follows it: its script, its patches, and what they come to."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_resnet import files
from tests.conftest import TINY, Clone
from tools import scratch

PAGE = (scratch.ROOT / "docs/adapt.md").read_text()
TRAIN = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": False, "model": {"width": 4}}
SMALL: dict[str, Any] = {"train": TRAIN, "evaluate": {"device": "cpu"}}
GREY = """
import torch
from cifar_resnet import params
from cifar_resnet.randomness import generator
from cifar_resnet.training import augmentation, config, optimizer
train = params.read("train", config.TrainConfig)
images = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8)
draws = augmentation.sample(train.augmentation, 400, 32, generator(0, "augmentation"))
red, green, blue = augmentation.augment(images, draws, train.augmentation.padding).unbind(1)
grey = ((red == green) & (green == blue)).flatten(1).all(1)
print(int(grey.sum()), type(optimizer.build_optimizer(torch.nn.Linear(1, 1), train.optimizer)).__name__)
"""


def section(title: str) -> str:
    """What the page says under a heading."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def blocks(text: str, language: str = "diff") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def apply(clone: Clone, patch: str) -> None:
    (clone.folder / "patch.diff").write_text(patch)
    scratch.git(clone.folder, "apply", "patch.diff")
    (clone.folder / "patch.diff").unlink()


@pytest.fixture
def untouched(clone: Clone) -> Clone:
    """A clone with the committed params, which the page's patches are for."""
    (clone.folder / "params.yaml").write_bytes((scratch.ROOT / "params.yaml").read_bytes())
    return clone


def test_pictures_of_ones_own_go_the_whole_way(untouched: Clone) -> None:
    clone, text = untouched, section("Pictures of your own")
    (script,) = blocks(text, "python")
    (clone.folder / "make_pictures.py").write_text(script)
    drawings = clone.folder / "pictures"
    clone.run("python", "make_pictures.py", str(drawings), "10", "4")
    cut = drawings / "test/square/001.png"
    cut.write_bytes(cut.read_bytes()[:200])
    which, sizes = blocks(text)
    apply(clone, which)
    assert "30 train, 12 test pictures of 3 classes" in clone.stage("fetch")
    refused = clone.stage("preprocess", status=1)
    assert re.search(r"2 of 42 pictures .* train/circle/007.bmp .*, test/square/001.png", refused)
    assert not (clone.folder / files.TENSORS).exists()
    (drawings / "train/circle/007.bmp").unlink()
    cut.unlink()
    clone.stage("fetch")
    assert "validation_images 5000 leaves a class empty" in clone.stage("preprocess", status=1)
    apply(clone, sizes)
    clone.change(SMALL | {"preprocess": {"validation_images": 5}})
    clone.dvc("repro")
    assert clone.dvc("status", "--json").strip() == "{}"
    classes = pd.read_csv(clone.folder / "plots/classes.csv")
    together = classes["train"] + classes["val"]
    rows = zip(classes["class"], together, classes["test"], strict=True)
    assert [*rows] == [("circle", 9, 4), ("square", 10, 3), ("triangle", 10, 4)]
    graph = onnx.load_from_string(clone.read("models/resnet50.onnx")).graph
    shapes = [value.type.tensor_type.shape.dim[1:] for value in (*graph.input, *graph.output)]
    assert [[side.dim_value for side in shape] for shape in shapes] == [[3, 64, 64], [3]]
    card = clone.read("models/README.md").decode()
    assert re.search("own pictures(.|\n)*circle, square, triangle", card)
    assert not re.search("cifar-?10|32 x 32", card, re.IGNORECASE)
    first, *others = clone.run("python", "-m", "tools.predict", "pictures/test", "--json").splitlines()
    assert len(others) == 10
    assert {row["class"] for row in json.loads(first)["predictions"]} == set(classes["class"])
    Image.new("L", (50, 70), 99).save(drawings / "train/square/another.png")
    assert set(json.loads(clone.dvc("status", "--json"))) == {"fetch"}
    clone.change({"fetch": {"dataset": "synthetic"}})  # and back: nothing of the pictures stays
    clone.stage("fetch")
    assert [path.name for path in (clone.folder / "data/raw").iterdir()] == [files.RAW.name]
    assert "preprocess.image_size must be 32 (it is 64)" in clone.stage("preprocess", status=1)


def test_the_patches_of_the_page_apply_together_and_do_what_it_says(untouched: Clone) -> None:
    clone = untouched
    found = blocks(PAGE.split("\n## A network of your own\n")[1].split("\n## An experiment tracker\n")[0])
    assert len(found) == 5
    for patch in found:
        apply(clone, patch)
    tiny = {name: TINY[name] for name in ("fetch", "preprocess", "evaluate")}
    clone.change(tiny | {"train": TRAIN | {"batch_size": 50}})
    clone.dvc("repro")
    assert files.read_tensors(clone.folder / files.MODEL)[1]["model"] == {"name": "convnet", "width": 4}
    test = json.loads(clone.read("metrics/test.json"))
    assert 0 <= test["test_worst_class"] <= test["test_accuracy"]
    rates = pd.read_csv(clone.folder / "plots/history.csv")["lr"]
    assert len(rates) == 1
    assert json.loads(clone.read("metrics/export.json"))["onnx_agreement"] == 1
    card = clone.read("models/README.md").decode()
    assert "# ConvNet for made-up shapes\n\nA plain network of four" in card
    told = ("with SGD", "`model.name`", "`optimizer.momentum`", "`augmentation.grey`", "- convnet\n")
    assert not [text for text in told if text not in card]
    assert not re.search("resnet\n|bottleneck|torchvision", card, re.IGNORECASE)
    clone.run("python", "-m", "tools.predict", "plots/samples.png", "--explain", "looked.png")
    assert clone.read("looked.png").startswith(b"\x89PNG")
    grey, optimizer = clone.run("python", "-c", GREY, PYTHONPATH="src").split()
    assert 20 <= int(grey) <= 60  # a tenth of 400
    assert optimizer == "SGD"


def test_a_project_of_ones_own_starts_with_the_commands_of_the_page(clone: Clone) -> None:
    (commands,) = re.findall(r"```console\n(.*?)```", section("Start your own project"), re.DOTALL)
    *lines, last = [line.removeprefix("$ ") for line in commands.splitlines()]
    assert last.startswith("make repro ")
    roles, parts = ("AUTHOR", "COMMITTER"), ("NAME", "EMAIL")
    me: dict[str, Any] = {f"GIT_{role}_{part}": "me@here" for role in roles for part in parts}
    clone.run("bash", "-ec", "\n".join(lines), **me)
    clone.dvc("repro")
    assert clone.dvc("status", "--json").strip() == "{}"
    clone.run("git", "grep", "cifar[_-]resnet", "--", "*.py", status=1)  # nothing is found
    clone.run("lint-imports", REAL_PYTHON="1", PYTHONPATH="src:.")
    collected = clone.run("pytest", "--collect-only", "-q", REAL_PYTHON="1", PYTHONPATH="src:.")
    assert int(re.findall(r"(\d+) tests collected", collected)[0]) > 300


def test_a_tracker_gets_every_row_and_changes_no_bit(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    (patch,) = blocks(section("An experiment tracker"))
    apply(clone, patch)
    (clone.folder / files.MODEL).unlink()
    clone.stage("train")
    assert clone.read(str(files.MODEL)) == finished.read(str(files.MODEL))
    events = EventAccumulator(str(next((clone.folder / "logs/tensorboard").iterdir()))).Reload()
    history = pd.read_csv(clone.folder / "plots/history.csv")
    assert set(events.Tags()["scalars"]) == set(history.columns)
    for name in history:
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert seen == list(zip(history["epoch"], history[name].astype("float32"), strict=True))
