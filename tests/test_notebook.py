"""notebooks/kaggle.ipynb: every cell of it, on made-up images, from a clone of a finished repository."""

import json
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import nbformat
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


def test_the_notebook_trains_as_dvc_does_here(finished: Clone, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    ours = {"REPOSITORY": str(finished.folder), "TMPDIR": str(tmp_path / "temporary"), "RECIPE": "default"}
    (tmp_path / "temporary").mkdir()
    client.execute(env=finished.environment | ours | {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    outputs: list[dict[str, Any]] = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    for stage in ("fetch", "preprocess", "duplicates", "train", "export"):  # evaluate's outputs are in git
        assert f"Running stage '{stage}'" in printed
    test = json.loads(finished.read("metrics/test.json"))
    assert f"test accuracy {test['test_accuracy']:.2%}" in printed
    assert scratch.git(tmp_path / "temporary/train-cnn-dvc", "status", "--porcelain") == ""
    data = [output["data"] for output in outputs if "data" in output]
    assert len([one for one in data if "image/png" in one]) == 3
    assert any("images" in one["text/html"] for one in data if "text/html" in one)
    with tarfile.open(tmp_path / "published.tar") as archive:
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
    needs = [Requirement(text) for text in project["dependencies"]]
    linux = [need for need in needs if not need.marker or need.marker.evaluate({"sys_platform": "linux"})]
    assert not [need for need in linux if need.name in IMAGE and IMAGE[need.name] not in need.specifier]
