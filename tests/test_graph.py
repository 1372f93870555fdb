"""dvc.yaml against the code: complete deps, one params section per stage, plots of columns that exist."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import params
from tests.conftest import Clone
from tools import lock
from tools.scratch import ROOT, git

GRAPH = params.read_yaml(ROOT / "dvc.yaml")
STAGES = list(GRAPH["stages"])
PROCESS = "src/cifar_resnet/process/"  # runs a stage and decides no result
SHOWN = {"evaluate": ["fetch.dataset"], "export": ["fetch.dataset", "train"]}  # of other sections


def project_files(module: str) -> set[str]:
    """The files of this repository that a module may be: its own and its packages' `__init__.py`."""
    parts = module.split(".")
    roots = [Path("src"), Path()]
    paths = [root.joinpath(*parts).with_suffix(".py") for root in roots]
    paths += [root.joinpath(*parts[:n], "__init__.py") for root in roots for n in range(1, len(parts) + 1)]
    return {str(path) for path in paths if (ROOT / path).is_file() and (ROOT / path).stat().st_size}


def imports(file: str) -> set[str]:
    """The modules that a file imports anywhere in it, those only for type checking left out."""
    found = set()
    todo: list[ast.AST] = [ast.parse((ROOT / file).read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        todo += ast.iter_child_nodes(node)
    return found


def closure(file: str) -> set[str]:
    """All files of this repository that `file` may load, but not by way of PROCESS."""
    seen: set[str] = set()
    todo = {file} | project_files("stages")
    while todo:
        seen |= todo
        modules = {name for path in todo if not path.startswith(PROCESS) for name in imports(path)}
        todo = {path for module in modules for path in project_files(module)} - seen
    return seen


def code(stage: str) -> list[str]:
    """The deps of a stage that are code."""
    return [dep for dep in GRAPH["stages"][stage]["deps"] if dep.startswith(("src/", "stages/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_all_that_a_stage_imports_is_among_its_deps_or_decides_no_result(stage: str) -> None:
    assert GRAPH["stages"][stage]["cmd"] == f"python -m stages.{stage}"
    assert GRAPH["stages"][stage]["params"] == [stage, *SHOWN.get(stage, [])]
    deps = code(stage)
    assert f"stages/{stage}.py" in deps
    assert not [dep for dep in deps if dep.startswith(PROCESS)]
    outside = (PROCESS, "stages/__init__.py", "src/cifar_resnet/__init__.py", *deps)
    imported = closure(f"stages/{stage}.py")
    assert not [file for file in imported if not file.startswith(outside)]
    assert not [dep for dep in deps if not any(file.startswith(dep) for file in imported)]
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= (80 if stage == "train" else 60)


def test_training_does_not_see_the_test_images() -> None:
    assert not [dep for dep in GRAPH["stages"]["train"]["deps"] if "test" in dep]


def test_only_edits_of_what_decides_make_a_stage_stale(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    left = """
        loop.py~ .loop.py.swp #loop.py# loop.py.orig loop.py.rej loop.py.bak .DS_Store ._loop.py Thumbs.db
        __pycache__/loop.pyc .ipynb_checkpoints/x-checkpoint.py .idea/misc.xml .vscode/x.json desktop.ini
    """  # by editors and systems
    for folder in {dep for stage in STAGES for dep in code(stage) if (ROOT / dep).is_dir()} | {"pictures"}:
        for path in (clone.folder / folder / name for name in left.split()):
            path.parent.mkdir(exist_ok=True)
            path.write_text("left")
        (clone.folder / folder / ".#loop.py").symlink_to("user@host.1234")
    for file, stale in (("process/progress.py", {}), ("training/augmentation.py", {"train"})):
        with (clone.folder / "src/cifar_resnet" / file).open("a") as edited:
            edited.write("# edited\n")
        assert set(json.loads(clone.dvc("status", "--json"))) == set(stale), file


def test_a_clone_with_other_line_ends_has_the_same_bytes(finished: Clone, tmp_path: Path) -> None:
    other = tmp_path / "clone"
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(finished.folder), str(other))
    for path in git(finished.folder, "ls-files").split():
        assert (other / path).read_bytes() == finished.read(path), path


def entries(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """All (path, settings) of the stages' metrics or plots."""
    listed = [entry for stage in GRAPH["stages"].values() for entry in stage.get(kind, [])]
    return [pair for entry in listed for pair in entry.items()]


def test_every_result_file_belongs_to_the_stage_that_writes_it(finished: Clone) -> None:
    paths = [path for folder in ("metrics", "plots") for path in (finished.folder / folder).iterdir()]
    written = {str(path.relative_to(finished.folder)) for path in paths if path.name != ".gitignore"}
    assert written == {path for kind in ("metrics", "plots") for path, _ in entries(kind)}


def test_the_committed_metrics_and_plots_are_those_of_dvc_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    locked = {path: md5 for stage in lock.locked().values() for path, md5 in stage.outs.items()}
    committed = [path for path in git(ROOT, "ls-files", "metrics", "plots").split() if ".git" not in path]
    assert committed
    assert {path: lock.digest(path) for path in committed} == {path: locked[path] for path in committed}
