"""Recipes: what they say, and that they are what params.yaml and DVC take."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from cifar_resnet import params
from cifar_resnet.errors import UserError
from tests.test_files import CONFIGS
from tools import recipes, scratch

RECIPE = """
train: {all_images: true, schedule: {warmup: 0.3}, optimizer: {betas: [0.8, 0.9]}, model: {name: other}}
evaluate: {precision: bfloat16}
"""
# What decides a recipe's result, and the SHA-256 of its values: they are those of the runs in results/.
DECIDING = ("fetch.dataset", "fetch.synthetic", "preprocess", "train", "evaluate")
VALUES: dict[str, str] = yaml.safe_load("""
    {ablation-all: 42f93c0c, ablation-constant-rate: f9e17810, ablation-cutout: 09dcb1fe, coffee: 5cb42491,
    ablation-decay-all: f7d4580f, ablation-no-average: c2328753, ablation-no-cutmix: 484c253d,
    ablation-no-label-smoothing: 86d4cf31, ablation-no-warmup: 9dacb19c, ablation-reference: 391a19dc,
    ablation-reference-decay: 5d27c25d, ablation-rotation: f67ac340, ablation-zero-gamma: f09560b5,
    ablation-mixup: 2b237be5, original: c7eabe89, quick: 8cca7f6f, small: 703ec20d, tuned: 5c618e82,
    demo: d4165265}""")


def test_a_recipe_stands_on_others(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {epochs: 1, optimizer: {lr: 1, betas: [0, 0]}}")
    (tmp_path / "high.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}")
    (tmp_path / "in").mkdir()
    top = tmp_path / "in/top.yaml"
    top.write_text("base: [../low.yaml, ../high.yaml]\ntrain: {optimizer: {betas: [1, 1]}}")
    expected = {"train": {"epochs": 2, "optimizer": {"lr": 1, "betas": [1, 1]}}, "evaluate": {"flip": True}}
    assert recipes.read_recipe(top) == expected


def test_what_is_no_recipe_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {epochs: 1}")
    (tmp_path / "other.yaml").write_text("base: [recipe.yaml]")
    for text, told in (
        ("train", "a recipe has sections of params.yaml"),
        ("base: low.yaml", "its base is a list of files"),
        ("base: [recipe.yaml]", "has itself as its base"),
        ("base: [other.yaml]", "has itself as its base"),
        ("base: [low.yaml]\ntrain: 7", r"train is a section .* and a value \(7\) cannot take its place"),
        ("base: [low.yaml]\ntrain: {epochs: {n: 2}}", r"train.epochs is a value \(1\), and a section"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(UserError, match=told):
            recipes.read_recipe(tmp_path / "recipe.yaml")


def test_what_a_recipe_cannot_put_into_params_leaves_them_as_they_are(tmp_path: Path) -> None:
    before, path = (scratch.ROOT / "params.yaml").read_bytes(), tmp_path / "params.yaml"
    path.write_bytes(before)
    for changes, told in (
        ({"train": {"seed": 3, "epoch": 2}}, "params.yaml has no 'train.epoch'; it has seed, epochs"),
        ({"train": {"seed": 3, "optimizer": 0.1}}, "train.optimizer is a section"),
    ):
        with pytest.raises(UserError, match=told):
            scratch.change(path, changes)
        assert path.read_bytes() == before


def test_the_line_ends_of_params_stay(tmp_path: Path) -> None:
    for end in ("\n", "\r\n"):
        text = f"train:  # of a run{end}  epochs: 1{end}  betas: [0.9, 0.999]{end}"
        (tmp_path / "params.yaml").write_bytes(text.encode())
        scratch.change(tmp_path / "params.yaml", {"train": {"epochs": 2}})
        assert (tmp_path / "params.yaml").read_bytes().decode() == text.replace("epochs: 1", "epochs: 2")


def test_the_original_says_every_value() -> None:
    paths = ("recipes/original.yaml", "params.yaml")
    original, default = (params.read_yaml(scratch.ROOT / path) for path in paths)
    for section in ("preprocess", "train", "evaluate"):
        own, known = (params.flatten(values[section]) for values in (original, default))
        assert own.keys() == known.keys(), section


def test_the_default_says_each_value_of_the_original_that_differs() -> None:
    text = (scratch.ROOT / "params.yaml").read_text()
    put_back = yaml.safe_load(re.sub(r": [^#\n]+#(?: .*;)? original: (.+)", r": \1", text))
    original = scratch.merge(yaml.safe_load(text), params.read_yaml(scratch.ROOT / "recipes/original.yaml"))
    assert put_back == original != yaml.safe_load(text)


def test_no_recipe_changes_with_params(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests() -> dict[str, str]:
        found = {}
        for path in sorted(scratch.ROOT.glob("recipes/**/*.yaml")):
            values = dict(one.split("=", 1) for one in recipes.settings(recipes.with_recipe(path)))
            deciding = {name: value for name, value in values.items() if name.startswith(DECIDING)}
            text = json.dumps(deciding, sort_keys=True)
            found[recipes.recipe_name(path)] = hashlib.sha256(text.encode()).hexdigest()[:8]
        return found

    assert digests() == VALUES
    other, read = recipes.with_recipe(scratch.ROOT / "recipes/quick.yaml"), params.read_yaml
    monkeypatch.setattr(params, "read_yaml", lambda path: other if path.name == "params.yaml" else read(path))
    assert digests() == VALUES


@pytest.mark.parametrize("recipe", sorted(scratch.ROOT.glob("recipes/**/*.yaml")), ids=recipes.recipe_name)
def test_a_recipe_is_valid_and_holds_only_what_differs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, values = params.read_yaml(recipe), params.read_yaml(scratch.ROOT / "params.yaml")
    bases = own.pop("base", [])
    for base in bases:
        scratch.merge(values, recipes.read_recipe(recipe.parent / base))
    before = params.flatten(values)
    for name, value in params.flatten(own).items():
        assert not bases or before[name] != value, f"{name} is as it would be without it"
    assert bases or recipes.recipe_name(recipe) == "original"
    scratch.merge(values, own)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    for section, config_class in CONFIGS.items():
        params.read(section, config_class)


def test_a_recipe_goes_into_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = (scratch.ROOT / "params.yaml").read_bytes(), tmp_path / "params.yaml"
    path.write_bytes(before)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["recipes", "mine.yaml"])
    for recipe, changed in (("# nothing\n", 0), (RECIPE, 5)):
        Path("mine.yaml").write_text(recipe)
        recipes.main()
        pairs = zip(before.splitlines(), path.read_bytes().splitlines(), strict=True)
        assert sum(line != new for line, new in pairs) == changed, "the other lines stay"
    assert recipes.recipe_name(Path("mine.yaml")) == "mine", "its file's name, since it is not in recipes/"
    assert yaml.safe_load(path.read_text()) == scratch.merge(yaml.safe_load(before), yaml.safe_load(RECIPE))
