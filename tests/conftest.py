"""Scratch clones with parameters so small that the six stages take seconds."""

import copy
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tools import scratch

# One thread in each of the processes that `make test` runs side by side: more than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Children to kill: forked from a process that has imported PyTorch already, so that each starts at once.
FORK = multiprocessing.get_context("forkserver")
os.environ["PYTHONPATH"] = str(scratch.ROOT)  # the server's children find the tests as this process does
FORK.set_forkserver_preload(
    ["stages.train", "cifar_resnet.training", "torch._dynamo", "tests.test_checkpoint", "tests.test_resume"]
)

TINY: dict[str, Any] = {
    "fetch": {"dataset": "synthetic", "synthetic": {"train_images": 500, "test_images": 100}},
    "preprocess": {"validation_images": 100},
    "train": {
        "epochs": 3,
        "batch_size": 50,
        "device": "cpu",
        "compile": False,
        "model": {"width": 4, "blocks": [1, 1, 1, 1]},
    },
    "evaluate": {"device": "cpu"},
}


class Clone:
    """A scratch clone and the commands a user would type in it."""

    def __init__(self, folder: Path, cache: Path, changes: dict[str, Any] | None = None) -> None:
        self.folder, self.cache = folder, cache
        scratch.clone(folder, TINY)
        self.change(changes or {})
        scratch.commit(folder, "start")

    def inside(self, folder: str) -> "Clone":
        """Return a clone that lies in this one."""
        other = copy.copy(self)
        other.folder = self.folder / folder
        return other

    def change(self, changes: dict[str, Any]) -> None:
        """Edit params.yaml."""
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        scratch.merge(params, changes)
        yaml.dump(params, self.folder / "params.yaml")

    @property
    def environment(self) -> dict[str, str]:
        """This Python first on the PATH, one thread whatever the machine, a cache of its own."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        here = {
            "PATH": path,
            "XDG_CACHE_HOME": str(self.cache),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
        }
        ours = ("CIFAR10_SOURCE", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR")
        return {name: value for name, value in os.environ.items() if name not in ours} | here

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run a command, check its exit status, and return what it printed."""
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def dvc(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run dvc."""
        return self.run("dvc", *arguments, status=status, **environment)

    def stage(self, name: str, status: int = 0, **environment: str) -> str:
        """Run a stage without DVC."""
        return self.run("python", "-m", f"stages.{name}", status=status, **environment)

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        return (self.folder / path).read_bytes()

    def copy(self, folder: Path) -> "Clone":
        """Return a copy of this clone, DVC's cache and all, in a new folder."""
        other = copy.copy(self)
        other.folder = folder / "clone"
        shutil.copytree(self.folder, other.folder)
        return other


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A tiny clone that has run nothing."""
    return Clone(tmp_path / "clone", tmp_path / "cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A tiny clone after `dvc repro`, its results committed; tests that share it must leave it so."""
    folder = tmp_path_factory.mktemp("finished")
    clone = Clone(folder / "clone", folder / "cache")
    clone.dvc("repro")
    scratch.commit(clone.folder, "results")
    return clone
