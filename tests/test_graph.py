"""dvc.yaml against the code: complete deps, one params section per stage, plots of columns that exist."""

import ast
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from tests.conftest import Clone
from tools.scratch import ROOT, git

GRAPH = files.read_yaml(ROOT / "dvc.yaml")
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


def closure(file: str, through: Callable[[str], bool] = lambda _: True) -> set[str]:
    """All files of this repository that running `file` may load, by way of files that `through` accepts."""
    seen: set[str] = set()
    todo = {file} | project_files("stages")
    while todo:
        seen |= todo
        modules = {module for current in filter(through, todo) for module in imports(current)}
        todo = {path for module in modules for path in project_files(module)} - seen
    return seen


def code(stage: str) -> list[str]:
    """The deps of a stage that are code."""
    return [dep for dep in GRAPH["stages"][stage]["deps"] if dep.startswith(("src/", "stages/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_all_that_a_stage_imports_is_among_its_deps_or_decides_no_result(stage: str) -> None:
    assert GRAPH["stages"][stage]["cmd"] == f"python -m stages.{stage}"
    deps = code(stage)
    assert f"stages/{stage}.py" in deps
    assert all((ROOT / dep).exists() for dep in deps)
    assert not [dep for dep in deps if dep.startswith(PROCESS)]
    outside = (PROCESS, "stages/__init__.py", *deps)
    assert not [file for file in closure(f"stages/{stage}.py") if not file.startswith(outside)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_file_its_params_section_and_what_it_imports(stage: str) -> None:
    imported = closure(f"stages/{stage}.py", through=lambda file: not file.startswith(PROCESS))
    assert not [dep for dep in code(stage) if not any(file.startswith(dep) for file in imported)]
    assert GRAPH["stages"][stage]["params"] == [stage, *SHOWN.get(stage, [])]
    assert stage in files.read_yaml(ROOT / "params.yaml")
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= 60


def test_training_does_not_see_the_test_images() -> None:
    assert not [dep for dep in GRAPH["stages"]["train"]["deps"] if "test" in dep]


def test_an_edit_to_the_progress_bar_leaves_dvc_status_clean_and_one_to_augmentation_flags_train_alone(
    finished: Clone, tmp_path: Path
) -> None:
    clone = finished.copy(tmp_path)
    for path, stale in (("process/progress.py", {}), ("training/augmentation.py", {"train"})):
        file = clone.folder / "src/cifar_resnet" / path
        file.write_text(file.read_text() + "# edited\n")
        assert set(json.loads(clone.dvc("status", "--json"))) == set(stale), path


LEFT = (  # by editors and systems
    *("loop.py~", ".loop.py.swp", "#loop.py#", "loop.py.orig", "loop.py.rej", "loop.py.bak"),
    *(".DS_Store", "._loop.py", "Thumbs.db", "desktop.ini", "__pycache__/loop.pyc"),
    *(".ipynb_checkpoints/loop-checkpoint.py", ".idea/misc.xml", ".vscode/settings.json"),
)


def test_what_editors_and_systems_leave_makes_no_stage_stale(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    folders = {dep for stage in STAGES for dep in code(stage) if (ROOT / dep).is_dir()} | {"pictures"}
    for folder in folders:
        for name in LEFT:
            path = clone.folder / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("left")
        (clone.folder / folder / ".#loop.py").symlink_to("user@host.1234")
    assert clone.dvc("status", "--json").strip() == "{}"


def test_a_clone_with_other_line_ends_has_the_same_bytes(finished: Clone, tmp_path: Path) -> None:
    other = tmp_path / "clone"
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(finished.folder), str(other))
    for path in git(finished.folder, "ls-files").split():
        assert (other / path).read_bytes() == finished.read(path), path


def entries(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """All (path, settings) of the stages' metrics or plots."""
    listed = [entry for stage in GRAPH["stages"].values() for entry in stage.get(kind, [])]
    return [pair for entry in listed for pair in entry.items()]


def test_every_plot_names_columns_of_its_file(finished: Clone) -> None:
    specs = [(path, [spec["x"], spec["y"]]) for path, spec in entries("plots") if path.endswith(".csv")]
    for plot in GRAPH["plots"]:
        for spec in plot.values():
            specs += [(path, [spec["x"], *columns]) for path, columns in spec["y"].items()]
    assert len(specs) >= 5
    for path, columns in specs:
        rows = list(csv.DictReader(finished.read(path).decode().splitlines()))
        assert rows, path
        assert set(columns) <= set(rows[0]), path


def test_every_result_file_belongs_to_the_stage_that_writes_it(finished: Clone) -> None:
    written = {
        str(path.relative_to(finished.folder))
        for folder in ("metrics", "plots")
        for path in (finished.folder / folder).iterdir()
        if path.name != ".gitignore"
    }
    assert written == {path for kind in ("metrics", "plots") for path, _ in entries(kind)}
