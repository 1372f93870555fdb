"""dvc.yaml against the code: complete deps, one params section per stage, plots of columns that exist."""

import json
from pathlib import Path
from typing import Any

import grimp
import pytest

from cifar_resnet import params
from tests.conftest import Clone
from tools import lock
from tools.scratch import ROOT, git

GRAPH = params.read_yaml(ROOT / "dvc.yaml")
STAGES = list(GRAPH["stages"])
PROCESS = "src/cifar_resnet/process/"  # runs a stage and decides no result
SHOWN = {"evaluate": ["fetch.dataset"], "export": ["fetch.dataset", "train"]}  # of other sections


def imported(stage: str) -> set[str]:
    """All files of this repository that a stage may load, but not by way of PROCESS."""
    graph = grimp.build_graph("cifar_resnet", "stages", cache_dir=None)
    for module in graph.find_descendants("cifar_resnet.process"):
        for other in graph.find_modules_directly_imported_by(module):
            graph.remove_import(importer=module, imported=other)
    modules = graph.find_upstream_modules(f"stages.{stage}") | {f"stages.{stage}"}
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    return {path if path.startswith("stages/") else f"src/{path}" for path in paths}


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
    outside = (PROCESS, "stages/__init__.py", *deps)
    files = imported(stage)
    assert not [file for file in files if not file.startswith(outside)]
    assert not [dep for dep in deps if not any(file.startswith(dep) for file in files)]
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= (80 if stage == "train" else 60)


def test_importing_a_room_runs_no_code_of_the_room_itself() -> None:
    assert not [path for path in (ROOT / "src").rglob("__init__.py") if path.stat().st_size]


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
    stages = lock.locked()
    assert not [line for name in stages for line in lock.outdated(stages, name, code=False)]
    locked = {path: md5 for stage in stages.values() for path, md5 in stage.outs.items()}
    committed = [path for path in git(ROOT, "ls-files", "metrics", "plots").split() if ".git" not in path]
    assert committed
    assert {path: lock.digest(path) for path in committed} == {path: locked[path] for path in committed}
