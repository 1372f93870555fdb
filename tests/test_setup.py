"""`make setup`: which Python, which build of PyTorch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.scratch import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads, and no .venv."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)


def make(folder: Path, *words: str, status: int = 0) -> str:
    """What `make` prints in `folder` on Linux."""
    (folder / "bin").mkdir(exist_ok=True)
    script(folder / "bin/uname", "echo Linux")
    # Not as a part of the `make test` that runs this.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


def blocks(lock: Path) -> dict[str, str]:
    """The text of each package of a lock, by name and, where there are several, version."""
    parts = re.split(r"^(?=[a-z])", lock.read_text(), flags=re.MULTILINE)[1:]
    return {part.split(maxsplit=1)[0]: part for part in parts}


@pytest.mark.parametrize("version", ["(3, 10)", "(3, 13)"])
def test_another_python_is_refused_before_anything_is_installed(version: str, fresh: Path) -> None:
    python = fresh / "python"
    script(
        python,
        'if [ "$1" = --version ]; then echo Python X; exit; fi',
        f'exec {sys.executable} "$1" "import sys; sys.version_info = {version}; $2"',
    )
    printed = make(fresh, "setup", f"PYTHON={python}", status=2)
    refusal = f"{python} is Python X, this project needs Python 3.11 or 3.12: make setup PYTHON=python3.12"
    assert printed == f"error: {refusal}\n"
    assert not (fresh / ".venv").exists()


def test_the_readmes_way_without_make_is_what_make_does(fresh: Path) -> None:
    planned = make(fresh, "-n", "setup")
    readme = (ROOT / "README.md").read_text()
    for words in ("-m venv", "--require-hashes -r requirements.lock", "-e .", "python -m tools.plots_page"):
        assert words in planned, words
        assert words in readme, words
    assert len([line for line in planned.splitlines() if "pip install" in line]) == 2


def test_the_cpu_build_keeps_every_other_package_with_its_hashes(fresh: Path) -> None:
    (fresh / ".venv").mkdir()
    planned = make(fresh, "-n", "setup", "TORCH=cpu")
    assert "--require-hashes -r .venv/requirements.lock" in planned
    (command,) = [line for line in planned.splitlines() if "awk" in line]
    subprocess.run(command, shell=True, check=True, cwd=fresh)
    without_cuda = blocks(fresh / ".venv/requirements.lock")
    everything = blocks(fresh / "requirements.lock")
    assert without_cuda.items() <= everything.items()
    assert all("--hash=sha256:" in text for text in without_cuda.values())
    left_out = {package.split("==")[0] for package in everything.keys() - without_cuda.keys()}
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= left_out
    for package, text in everything.items():  # who wants it: a package left out alone, or another one too
        wanted_by = set(re.findall(r"^ +#(?: via|  ) ([\w.-]+)", text, re.MULTILINE))
        if package.split("==")[0] not in ("torch", "torchvision"):
            assert (wanted_by <= left_out) == (package not in without_cuda), package


def test_the_build_stays_until_another_one_is_named_and_an_unknown_one_is_refused(fresh: Path) -> None:
    (fresh / ".venv").mkdir()
    (fresh / ".venv/ready").write_text("cpu")
    assert "pip install" not in make(fresh, "-n", "setup")
    assert "venv --clear" in make(fresh, "-n", "setup", "TORCH=default")
    refused = make(fresh, "setup", f"PYTHON={sys.executable}", "TORCH=gpu", status=2)
    assert refused == "error: TORCH is gpu, and has to be cpu or default\n"
