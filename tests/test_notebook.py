"""notebooks/kaggle.ipynb: every cell of it, on made-up images, from a clone of a finished repository."""

import json
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from tests.conftest import Clone
from tools import scratch

NOTEBOOK = scratch.ROOT / "notebooks/kaggle.ipynb"
IMAGE = {
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "pydantic": "2.13.4",
}


@pytest.fixture(scope="module")
def working(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the notebook ran, with itself, outputs included, as ran.ipynb."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "temporary").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    ours = {"REPOSITORY": str(finished.folder), "TMPDIR": str(folder / "temporary"), "RECIPE": "default"}
    client.execute(env=finished.environment | ours | {"XDG_CACHE_HOME": str(folder / "cache")})
    (folder / "ran.ipynb").write_text(json.dumps(notebook))
    return folder


def outputs(working: Path) -> list[dict[str, Any]]:
    cells = json.loads((working / "ran.ipynb").read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_the_notebook_trains_as_dvc_does_here(working: Path, finished: Clone) -> None:
    printed = "".join("".join(output.get("text", "")) for output in outputs(working))
    for stage in ("fetch", "preprocess", "duplicates", "train", "export"):  # evaluate's outputs are in git
        assert f"Running stage '{stage}'" in printed
    test = json.loads(finished.read("metrics/test.json"))
    assert f"test accuracy {test['test_accuracy']:.2%}" in printed
    clone = working / "temporary/train-cnn-dvc"
    assert scratch.git(clone, "status", "--porcelain") == ""


def test_the_notebook_shows_the_curves_and_the_mistakes(working: Path, finished: Clone) -> None:
    data = [output["data"] for output in outputs(working) if "data" in output]
    assert len([one for one in data if "image/png" in one]) == 3
    assert any("images" in "".join(one["text/html"]) for one in data if "text/html" in one)


def test_the_notebook_leaves_the_model_to_download(working: Path, finished: Clone) -> None:
    with tarfile.open(working / "published.tar") as archive:
        assert "logs" in archive.getnames()
        for path in ("models/resnet50.safetensors", "metrics/test.json", "dvc.lock", "plots/curves.png"):
            member = archive.extractfile(path)
            assert member is not None
            assert member.read() == finished.read(path), path


def test_the_committed_notebook_holds_no_output() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_versions_of_the_free_images_are_allowed() -> None:
    project = tomllib.loads((scratch.ROOT / "pyproject.toml").read_text())["project"]
    needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    assert not [package for package, version in IMAGE.items() if version not in needs[package]]
