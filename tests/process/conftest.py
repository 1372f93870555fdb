"""A folder in which the stages run within this process, on tensors that are made once."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.process import command
from tests.conftest import OUTPUTS, TINY
from tools import scratch


class Workspace:
    """A copy of the code with tiny params, without git and DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        for name in ("src/cifar_resnet", "stages"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(scratch.ROOT / name, folder / name, ignore=ignored)
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(scratch.ROOT / name, folder)
        self.change(TINY)

    def change(self, changes: dict[str, Any]) -> None:
        """Edit params.yaml."""
        scratch.change(self.folder / "params.yaml", changes)

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        """Make it the working folder, with a cache of its own."""
        patch.chdir(self.folder)
        patch.setattr(files, "cache", lambda: self.cache)
        patch.setattr(sys, "argv", ["stage"])
        patch.delenv("CIFAR10_SOURCE", raising=False)

    def run(self, stage: str, status: int = 0) -> str:
        """Run a stage here in one thread; check its exit status, and return the text that it ends with."""
        code, threads = None, torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            command.run(importlib.import_module(f"stages.{stage}").main, None)
        except SystemExit as end:
            code = end.code
        finally:
            torch.set_num_threads(threads)
        assert (code if isinstance(code, int) else int(code is not None)) == status, code
        return str(code)

    def told(self, stage: str) -> str:
        """Return the one line in which a stage fails."""
        line = self.run(stage, status=1)
        assert len(line.splitlines()) == 1
        return line

    def outputs(self) -> dict[str, bytes]:
        """Return what `train` has written."""
        return {path: (self.folder / path).read_bytes() for path in OUTPUTS}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after fetch, preprocess and an unbroken training; nobody changes it."""
    workspace = Workspace(tmp_path_factory.mktemp("trained") / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        workspace.enter(patch)
        for stage in ("fetch", "preprocess", "train"):
            workspace.run(stage)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, the working folder."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.enter(monkeypatch)
    return workspace


@pytest.fixture
def prepared(workspace: Workspace, trained: Workspace) -> Workspace:
    """A workspace with its tensors, the working folder."""
    shutil.copytree(trained.folder / "data", workspace.folder / "data")
    return workspace
