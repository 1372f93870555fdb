"""Scratch clones with parameters so small that the six stages take seconds."""

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests import zygote
from tools import recipes, scratch

# Children to kill: forked from a process that has imported PyTorch already, so that each starts at once.
FORK = multiprocessing.get_context("forkserver")
os.environ["PYTHONPATH"] = f"{scratch.ROOT}/src{os.pathsep}{scratch.ROOT}"  # this code, not an installed one
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
FORK.set_forkserver_preload(["torch._dynamo", "tests.process.test_resume", "tests.training.test_loop"])

# Time says nothing about a property: another test process may have the cores.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

OUTPUTS = ("models/resnet50.safetensors", "metrics/train.json", "plots/history.csv")  # of train
TINY: dict[str, Any] = scratch.merge(
    recipes.read_recipe(scratch.ROOT / "recipes/original.yaml"),
    {
        "fetch": {"dataset": "synthetic", "synthetic": {"train_images": 500, "test_images": 100}},
        "preprocess": {"validation_images": 100},
        "train": {
            "epochs": 3,
            "batch_size": 50,
            "device": "cpu",
            "compile": False,
            "precision": "float32",  # `auto` is not the same everywhere
            "model": {"width": 4, "blocks": [1, 1, 1, 1]},
        },
        "evaluate": {"device": "cpu"},
    },
)


def clean_environment() -> dict[str, str]:
    """The environment without what would change a run, one thread whatever the machine."""
    ours = ("CIFAR10_SOURCE", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR", "CIFAR_RESNET_LOGS")
    here = {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "CIFAR_RESNET_MALLOC": "0"}
    return {name: value for name, value in os.environ.items() if name not in ours} | here


@functools.cache
def quick() -> Path:
    """The folder of the quick `python`, `dvc` and `torchrun`; their server is one for all test processes."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"quick-{owner}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "socket").exists():
            command = [sys.executable, zygote.__file__, str(folder), str(owner)]
            subprocess.run(command, env=clean_environment(), check=True)  # ends when its child is ready
    return folder


class Clone:
    """A scratch clone and the commands a user would type in it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    @classmethod
    def make(cls, folder: Path) -> "Clone":
        """Make a tiny clone and its cache in `folder`."""
        scratch.clone(folder / "clone", TINY)
        return cls(folder / "clone", folder / "cache")

    def change(self, changes: dict[str, Any]) -> None:
        """Edit params.yaml."""
        scratch.change(self.folder / "params.yaml", changes)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first `old` in a file; the file may be a link into DVC's cache."""
        text = self.read(path).decode()
        assert old in text
        (self.folder / path).unlink()
        (self.folder / path).write_text(text.replace(old, new, 1))

    @property
    def environment(self) -> dict[str, str]:
        """The quick commands of tests.zygote come first on the PATH; a cache of its own."""
        return clean_environment() | {
            "PATH": os.pathsep.join([str(quick()), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "XDG_CACHE_HOME": str(self.cache),
            "DVC_SITE_CACHE_DIR": str(self.cache / "dvc"),
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command in a session of its own, with Python's own processes, which signals reach."""
        return subprocess.Popen(
            arguments,
            cwd=self.folder,
            env=self.environment | {"REAL_PYTHON": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def saved(self, process: "subprocess.Popen[str]") -> Path:
        """Wait until a run that `process` has started has saved a state; return the run's folder."""
        deadline = time.monotonic() + 180
        while not (states := list((self.cache / "cifar-resnet/resume").glob("*/[0-9]*.pt"))):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return states[0].parent

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
        shutil.copytree(self.folder, folder / "clone")
        return Clone(folder / "clone", self.cache)


# The files with the longest tests: they begin first, so that no process works alone at the end.
FIRST = (
    *("test_demo", "test_sweep", "test_adapt", "test_gpu_run", "test_resume", "test_launch"),
    *("test_loop", "test_numerics", "test_notebook", "test_pipeline", "test_card", "test_verify"),
    *("test_distributed", "test_command", "test_duplicates"),
)
# Files whose tests share what takes long to make: one process runs all of a file.
TOGETHER = {"test_demo", "test_launch", "test_gpu_run", "test_notebook", "test_onnx_export"}


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out single tests, and the files of `TOGETHER` whole.

    xdist's own groups (loadgroup) do nothing with pytest 9.2, which does not read the names that they give.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return file if Path(file).stem in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Let xdist deal out the tests in this order."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first; mark what starts other processes: `make check` leaves it out."""
    order = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if {"clone", "finished", "official"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A tiny clone that has run nothing."""
    return Clone.make(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A tiny clone after `dvc repro`, its results committed; made once for all test processes.

    Whoever changes anything in it takes a copy.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if folder.exists():
            return Clone(folder / "clone", folder / "cache")
        clone = Clone.make(shared / "making")
        clone.dvc("repro")
        scratch.commit(clone.folder, "results")
        (shared / "making").rename(folder)
    return Clone(folder / "clone", folder / "cache")
