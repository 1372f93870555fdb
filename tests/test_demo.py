"""`make demo`, and the recipes it and others are made of."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import files
from tests.conftest import Clone
from tests.test_files import CONFIGS
from tools import scratch

RECIPES = sorted((scratch.ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_holds_only_what_differs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = YAML(typ="safe")
    params, changes = yaml.load(scratch.ROOT / "params.yaml"), yaml.load(recipe)
    before = json.dumps(params)
    for section in changes:
        for name in changes[section]:
            alone = json.loads(before)
            scratch.merge(alone, {section: {name: changes[section][name]}})
            assert json.dumps(alone) != before, f"{section}.{name} is as in params.yaml"
    scratch.merge(params, changes)
    yaml.dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for section, config_class in CONFIGS.items():
        files.read_params(section, config_class)


def test_a_recipe_cannot_name_what_params_lack() -> None:
    with pytest.raises(ValueError, match="no 'epoch'; it has epochs"):
        scratch.merge({"train": {"epochs": 1}}, {"train": {"epoch": 2}})


@pytest.mark.slow
def test_the_demo_learns_leaves_the_workspace_alone_and_does_nothing_twice(clone: Clone) -> None:
    shutil.copy(scratch.ROOT / "params.yaml", clone.folder)
    scratch.commit(clone.folder, "the committed params")
    first = clone.run("python", "-m", "tools.demo", OMP_NUM_THREADS="2")
    test = json.loads(clone.read(".demo/metrics/test.json"))
    assert test["accuracy"] >= 0.9
    assert first.count("Running stage") == 5
    page = re.search(r"readable offline: (\S+)", first)
    assert page
    assert Path(page[1]).stat().st_size > 100_000
    assert scratch.git(clone.folder, "status", "--porcelain") == ""
    second = clone.run("python", "-m", "tools.demo", OMP_NUM_THREADS="2")
    assert second.count("didn't change, skipping") == 5
    assert second[second.index("The kept epoch") :] == first[first.index("The kept epoch") :]
