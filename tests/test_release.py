"""docs/gpu-run.md, every command of it: a run on another machine, brought back, checked and offered."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet import tensorfile
from tests.conftest import Clone
from tools import release, scratch

pytestmark = pytest.mark.slow
COMMAND = re.compile(r"^(home|gpu|clone)\$ (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def machines(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clone]:
    """The machines of the page, after all of its commands."""
    folder = tmp_path_factory.mktemp("machines")
    home = finished.copy(folder / "home")
    scratch.git(home.folder, "rm", "--quiet", "-r", "dvc.lock", "metrics", "plots")
    shutil.rmtree(home.folder / "models")
    scratch.commit(home.folder, "before the run")
    machines = {"home": home}
    for name in ("gpu", "clone"):
        machines[name] = home.inside("")
        machines[name].folder = folder / name
        machines[name].cache = folder / f"{name}-cache"
    machines["gpu"].folder.mkdir()
    environment: dict[str, Any] = {"CIFAR10_SOURCE": str(folder / "official")}
    for name in ("CARRY", "BACK", "official"):  # the made-up images need no source
        (folder / name).mkdir()
        environment[name] = str(folder / name)
    for machine, command in COMMAND.findall((scratch.ROOT / "docs/gpu-run.md").read_text()):
        if "pip" in command:
            continue
        if machine == "clone" and not machines["clone"].folder.exists():
            scratch.git(folder, "clone", "--quiet", str(home.folder), "clone")
        if command.endswith("dvc repro"):  # the next command runs everything in any case
            shutil.copytree(finished.folder / ".dvc/cache", machines["gpu"].folder / ".dvc/cache")
        printed = machines[machine].run("bash", "-o", "pipefail", "-c", command, **environment)
        if "cmp" in command:
            assert printed.count("Running stage") == 6
        if "predict" in command:
            assert "%" in printed
        if "dvc status" in command:
            assert "up to date" in printed
    return machines


def test_the_results_are_those_of_the_other_machine(machines: dict[str, Clone], finished: Clone) -> None:
    home, gpu = machines["home"], machines["gpu"]
    assert not scratch.git(home.folder, "status", "--porcelain")
    for path in ("dvc.lock", "metrics/test.json", "plots/history.csv", "models/resnet50.safetensors"):
        assert home.read(path) == gpu.read(path) == finished.read(path)
    assert home.dvc("status", "--json", "train", "evaluate").strip() == "{}"


def test_the_released_weights_are_the_model_s_in_half_precision(machines: dict[str, Clone]) -> None:
    clone = machines["clone"]
    released, about = tensorfile.read(clone.folder / release.WEIGHTS)
    weights, original = tensorfile.read(machines["home"].folder / "models/resnet50.safetensors")
    assert {**about, "sha256": ""} == {**original, "sha256": ""}
    for name, value in weights.items():
        assert released[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
        torch.testing.assert_close(released[name].to(value.dtype), value, rtol=1e-3, atol=1e-6)


def test_a_model_that_does_something_else_is_not_released(machines: dict[str, Clone], tmp_path: Path) -> None:
    home = machines["home"].copy(tmp_path)
    metrics = json.loads(home.read("metrics/test.json"))
    metrics["accuracy"] += 0.01
    (home.folder / "metrics/test.json").write_text(json.dumps(metrics))
    before = home.read(f"{release.WEIGHTS}.dvc")
    printed = home.run("python", "-m", "tools.release", status=1)
    assert "error: models/resnet50.safetensors does not do here what metrics/test.json says" in printed
    assert home.read(f"{release.WEIGHTS}.dvc") == before
