"""`make setup`: which Python, which build of PyTorch; the lock; the other targets."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.scratch import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads, and no .venv."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin/uname", "echo Linux")
    return tmp_path


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)


def make(folder: Path, *words: str, status: int = 0) -> str:
    """What `make` prints in `folder`."""
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


@pytest.mark.parametrize("module", ["stages.fetch", "tools.demo"])
def test_a_python_without_the_packages_is_told_what_to_activate(module: str) -> None:
    command = [sys.executable, "-S", "-m", module]  # -S: without what is installed
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True)
    told = f"error: {sys.executable} has none of this project's packages: `source .venv/bin/activate`\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("version", ["(3, 10)", "(3, 13)"])
def test_another_python_is_refused_before_anything_is_installed(version: str, fresh: Path) -> None:
    python, code = fresh / "python", f'"import sys; sys.version_info = {version}; $2"'
    script(python, '[ "$1" = --version ] && echo Python X && exit', f'exec {sys.executable} "$1" {code}')
    refusal = f"{python} is Python X, this project needs Python 3.11 or 3.12: make setup PYTHON=python3.12"
    assert make(fresh, "setup", f"PYTHON={python}", status=2) == f"error: {refusal}\n"
    assert not (fresh / ".venv").exists()


def test_the_way_without_make_is_what_make_does(fresh: Path) -> None:
    planned = make(fresh, "-n", "setup")
    page = (ROOT / "docs/help.md").read_text()
    for words in ("-m venv", "--require-hashes -r requirements.lock", "-e .", "python -m tools.plots_page"):
        assert words in planned, words
        assert words in page, words
    installs = [line for line in planned.splitlines() if "pip install" in line]
    assert len(installs) == 3, "uv and setuptools, then by uv all others and this project"
    assert all("--require-hashes" in line or line.endswith("--no-deps -e .") for line in installs)


def test_the_cpu_build_keeps_every_other_package_with_its_hashes(fresh: Path) -> None:
    (fresh / ".venv").mkdir()
    planned = make(fresh, "-n", "setup", "TORCH=cpu")
    assert "--require-hashes -r .venv/requirements.lock" in planned
    for command in [line for line in planned.splitlines() if "awk" in line]:
        subprocess.run(command, shell=True, check=True, cwd=fresh)
    first, without_cuda, everything = (
        blocks(fresh / path) for path in (".venv/first.lock", ".venv/requirements.lock", "requirements.lock")
    )
    assert {package.split("==")[0] for package in first} == {"setuptools", "uv"}
    assert first.items() <= everything.items()
    assert without_cuda.items() <= everything.items()
    assert all("--hash=sha256:" in text for text in everything.values())
    left_out = {package.split("==")[0] for package in everything.keys() - without_cuda.keys()}
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= left_out
    for package, text in everything.items():  # who wants it: a package left out alone, or another one too
        wanted_by = set(re.findall(r"^ +#(?: via|  ) ([\w.-]+)", text, re.MULTILINE))
        if package.split("==")[0] not in ("torch", "torchvision"):
            assert (wanted_by <= left_out) == (package not in without_cuda), package


def test_the_lock_has_a_version_that_pyproject_wants_of_each_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked: dict[str, set[str]] = {}
    for package in blocks(ROOT / "requirements.lock"):
        name, version = package.split("==")
        locked.setdefault(canonicalize_name(name), set()).add(version)
    for need in map(Requirement, project["project"]["dependencies"] + project["dependency-groups"]["dev"]):
        assert any(version in need.specifier for version in locked[canonicalize_name(need.name)]), need


def test_every_make_target_that_a_page_names_can_be_planned() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?m)(?:`|^\$ )make ([a-z]+)", page.read_text())}
    assert len(named) > 8
    for name in named:
        assert "Nothing to be done" not in make(ROOT, "-n", "-B", name), name


def test_the_build_stays_until_another_one_is_named_and_an_unknown_one_is_refused(fresh: Path) -> None:
    activate = fresh / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'VIRTUAL_ENV="{fresh}/.venv"\n')
    (fresh / ".venv/ready").write_text("cpu")
    assert "pip install" not in make(fresh, "-n", "setup")
    assert "venv --clear" in make(fresh, "-n", "setup", "TORCH=default")
    refused = make(fresh, "setup", f"PYTHON={sys.executable}", "TORCH=gpu", status=2)
    assert refused == "error: TORCH is gpu, and has to be cpu or default\n"
    moved = fresh.rename(fresh.with_name("moved"))
    planned = make(moved, "-n", "setup")
    assert "venv --clear" in planned
    assert "echo cpu >" in planned
