"""`make demo`, and the tour that begins with it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_resnet.data import synthetic
from cifar_resnet.errors import UserError
from tests.conftest import Clone
from tools import scratch

TOUR = scratch.ROOT / "docs/tour.md"
NUMBER = re.compile(r"-?\d[\d.,]*(e-\d+)?%?")
CLASS = re.compile("|".join(synthetic.SHAPES))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, str]:
    """A clone with the committed params in which `make demo` has run, and what it printed."""
    clone = Clone.make(tmp_path_factory.mktemp("demo"))
    shutil.copy(scratch.ROOT / "params.yaml", clone.folder)
    scratch.commit(clone.folder, "the committed params")
    return clone, clone.run("python", "-m", "tools.demo")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_learns_leaves_the_workspace_alone_and_does_nothing_twice(demo: tuple[Clone, str]) -> None:
    clone, first = demo
    test = json.loads(clone.read(".demo/metrics/test.json"))
    assert test["test_accuracy"] >= 0.9
    assert first.count("Running stage") == 6
    (page,) = re.findall(r"readable offline: (\S+)", first)
    assert Path(page).stat().st_size > 100_000
    assert scratch.git(clone.folder, "status", "--porcelain") == ""
    second = clone.run("python", "-m", "tools.demo")
    assert second.count("didn't change, skipping") == 6
    assert second[second.index("The kept epoch") :] == first[first.index("The kept epoch") :]


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree without `.git`, in place of this one."""
    for path in ("params.yaml", "code.py", "made/ignored.bin", "metrics/test.json", "released/model"):
        (tmp_path / "unpacked" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / path).write_text("train: {epochs: 1}\n")
    (tmp_path / "unpacked/.gitignore").write_text("/made/\n")
    monkeypatch.setattr(scratch, "ROOT", tmp_path / "unpacked")
    return tmp_path / "unpacked"


def test_a_source_tree_without_git_has_a_demo_too(unpacked: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    for changes, epochs, code in (({"train": {"epochs": 2}}, 2, "code.py"), ({}, 1, "other.py")):
        (unpacked / "code.py").rename(unpacked / code)
        scratch.clone(demo, changes)
        assert sorted(scratch.git(demo, "ls-files").split()) == [".gitignore", code, "params.yaml"]
        assert (demo / "params.yaml").read_text() == f"train: {{epochs: {epochs}}}\n"
    assert not (unpacked / ".git").exists()


def test_a_scratch_clone_ignores_the_users_hooks_and_signatures(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "hooks/pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    own = f"[commit]\ngpgsign = true\n[gpg]\nprogram = false\n[core]\nhooksPath = {hook.parent}\n"
    (tmp_path / "gitconfig").write_text(own)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    scratch.clone(tmp_path / "demo", {})
    assert scratch.git(tmp_path / "demo", "log", "--format=%s").strip() == "Scratch clone"
    with pytest.raises(UserError, match=r"^`git show` in .*: fatal: [^\n]*unknown revision[^\n]*$"):
        scratch.git(tmp_path / "demo", "show", "nothing")


def told(line: str) -> str:
    """A line without what another machine may print otherwise: numbers, classes, widths, paths, hashes."""
    line = re.sub(r"file://\S*/dvc_plots", "file:///.../dvc_plots", line)
    line = re.sub(r"[0-9a-f]{7} \[", "HASH [", line)
    return " ".join(CLASS.sub("CLASS", NUMBER.sub("N", line)).split())


def commands(document: str) -> Iterator[tuple[str, list[str]]]:
    """Every command of a document's console blocks with the lines that it is said to print."""
    for block in re.findall(r"```console\n(.*?)```", document, re.DOTALL):
        for step in block.removeprefix("$ ").split("\n$ "):
            command, *lines = step.splitlines()
            yield command, lines


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tour_prints_what_it_says(demo: tuple[Clone, str]) -> None:
    clone, printed = demo
    clone = Clone(clone.folder / ".demo", clone.cache)
    played = 0
    for command, lines in commands(TOUR.read_text()):
        if command.startswith(("make setup", "source ", "cd ")):
            assert not lines
            continue
        status = 255 if any(line.startswith("error: ") for line in lines) else 0
        output = printed if command == "make demo" else clone.run("bash", "-c", command, status=status)
        found = iter([told(line) for line in output.splitlines() if line.strip()])
        gap = False
        for line in map(told, lines):
            if line == "...":
                gap = True
                continue
            following = next((other for other in found if not gap or other == line), None)
            assert following == line, f"{command}: {line!r} is not what comes:\n{output}"
            gap = False
        played += 1
    assert played > 10


def test_the_readme_shows_what_the_tour_shows() -> None:
    tour = {command: [*map(told, lines)] for command, lines in commands(TOUR.read_text())}
    compared = 0
    for command, lines in commands((scratch.ROOT / "README.md").read_text()):
        if command == "make verify":  # of the default recipe, not of the demo
            continue
        rest = iter(tour[command] if lines else [])
        for line in map(told, lines):
            assert line == "..." or line in rest, f"{command}: {line!r}"
            compared += 1
    assert compared > 8
