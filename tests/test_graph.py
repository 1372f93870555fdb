"""dvc.yaml against the code: complete deps, one params section per stage, plots of columns that exist."""

import ast
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import Clone
from tools.scratch import ROOT

GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = list(GRAPH["stages"])
SHOWN = {"export": ["fetch.dataset", "train"]}  # of other sections, on the model card


def project_files(module: str) -> set[str]:
    """The files of this repository that a module may be: its own and its packages' `__init__.py`."""
    parts = module.split(".")
    roots = [Path("src"), Path()]
    files = [root.joinpath(*parts).with_suffix(".py") for root in roots]
    files += [root.joinpath(*parts[:n], "__init__.py") for root in roots for n in range(1, len(parts) + 1)]
    return {str(file) for file in files if (ROOT / file).is_file() and (ROOT / file).stat().st_size}


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
    """All files of this repository that running `file` may load."""
    seen: set[str] = set()
    todo = {file} | project_files("stages")
    while todo:
        seen |= todo
        todo = {
            path for current in todo for module in imports(current) for path in project_files(module)
        } - seen
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_transitive_project_imports(stage: str) -> None:
    assert GRAPH["stages"][stage]["cmd"] == f"python -m stages.{stage}"
    code = {dep for dep in GRAPH["stages"][stage]["deps"] if dep.endswith(".py")}
    assert code == closure(f"stages/{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_file_and_its_params_section(stage: str) -> None:
    assert GRAPH["stages"][stage]["params"] == [stage, *SHOWN.get(stage, [])]
    assert stage in YAML(typ="safe").load(ROOT / "params.yaml")
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= 60


def test_training_does_not_see_the_test_images() -> None:
    assert not [dep for dep in GRAPH["stages"]["train"]["deps"] if "test" in dep]


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


def test_every_drawn_chart_holds_values(finished: Clone) -> None:
    charts = json.loads(finished.dvc("plots", "show", "--json"))["data"]
    assert {"Loss", "Accuracy"} <= set(charts)
    for name, revisions in charts.items():
        for chart in revisions:
            if "anchor_definitions" in chart:
                assert json.loads(chart["anchor_definitions"]["<DVC_METRIC_DATA>"]), name
