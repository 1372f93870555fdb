"""Recipes: what they say, and that they are what params.yaml and DVC take."""

from pathlib import Path

import pytest
import yaml

from cifar_resnet import files
from tests.test_files import CONFIGS
from tools import recipes, scratch

RECIPE = """
train:
  label_smoothing: 0.1
  schedule:
    shape: cosine
  optimizer:
    betas: [0.8, 0.9]
    decay_all: false
evaluate:
  flip: true
"""


def test_settings_are_what_dvc_takes() -> None:
    assert [f"{name}={value}" for name, value in recipes.settings(yaml.safe_load(RECIPE))] == [
        "train.label_smoothing=0.1",
        "train.schedule.shape=cosine",
        "train.optimizer.betas=[0.8, 0.9]",
        "train.optimizer.decay_all=false",
        "evaluate.flip=true",
    ]


def test_a_recipe_stands_on_others(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {epochs: 1, optimizer: {lr: 1, betas: [0, 0]}}")
    (tmp_path / "high.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}")
    (tmp_path / "in").mkdir()
    top = tmp_path / "in/top.yaml"
    top.write_text("base: [../low.yaml, ../high.yaml]\ntrain: {optimizer: {betas: [1, 1]}}")
    expected = {"train": {"epochs": 2, "optimizer": {"lr": 1, "betas": [1, 1]}}, "evaluate": {"flip": True}}
    assert recipes.read_recipe(top) == expected


def test_a_recipe_is_named_after_its_path() -> None:
    assert recipes.title(Path("recipes/ablation/no-cutmix.yaml")) == "ablation-no-cutmix"
    assert recipes.title(Path("recipes/quick.yaml").absolute()) == "quick"
    assert recipes.title(Path("/elsewhere/mine.yaml")) == "mine"


@pytest.mark.parametrize("recipe", sorted(scratch.ROOT.glob("recipes/**/*.yaml")), ids=recipes.title)
def test_a_recipe_is_valid_and_holds_only_what_differs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, params = files.read_yaml(recipe) or {}, files.read_yaml(scratch.ROOT / "params.yaml")
    for base in own.pop("base", []):
        scratch.merge(params, recipes.read_recipe(recipe.parent / base))
    before = dict(recipes.settings(params))
    for name, value in recipes.settings(own):
        assert before[name] != value, f"{name} is as it would be without it"
    scratch.merge(params, own)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    for section, config_class in CONFIGS.items():
        files.read_params(section, config_class)


def test_no_run_of_the_ablation_stops_early() -> None:
    for recipe in sorted(scratch.ROOT.glob("recipes/ablation/*.yaml")):
        train = recipes.whole(recipe)["train"]
        assert train["patience"] >= train["epochs"], recipe.name


def test_a_recipe_goes_into_params_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = (scratch.ROOT / "params.yaml").read_bytes()
    (tmp_path / "params.yaml").write_bytes(params)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text("# nothing\n")
    monkeypatch.setattr("sys.argv", ["recipes", "plain.yaml"])
    recipes.main()
    assert (tmp_path / "params.yaml").read_bytes() == params
    (tmp_path / "other.yaml").write_text(RECIPE)
    monkeypatch.setattr("sys.argv", ["recipes", "other.yaml"])
    recipes.main()
    written = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert written == recipes.overlaid(yaml.safe_load(params), yaml.safe_load(RECIPE))
    before, after = params.splitlines(), (tmp_path / "params.yaml").read_bytes().splitlines()
    changed = [line for line, new in zip(before, after, strict=True) if line != new]
    assert len(changed) == len(list(recipes.settings(yaml.safe_load(RECIPE)))), "the other lines stay"
