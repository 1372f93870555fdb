"""Recipes: what they say, and that they are what params.yaml and DVC take."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from cifar_resnet import files
from tests.test_files import CONFIGS
from tools import recipes, scratch

RECIPE = """
train:
  all_images: true
  schedule:
    warmup: 0.3
  optimizer:
    betas: [0.8, 0.9]
  model:
    name: other
evaluate:
  precision: bfloat16
"""


# What decides a recipe's result, and the SHA-256 of its values: they are those of the runs in results/.
DECIDING = ("fetch.dataset", "fetch.synthetic", "preprocess", "train", "evaluate")
VALUES = {
    "ablation-all": "42f93c0c0a7d",
    "ablation-constant-rate": "f9e1781096fb",
    "ablation-cutout": "09dcb1feaafb",
    "ablation-decay-all": "f7d4580f3194",
    "ablation-mixup": "2b237be57469",
    "ablation-no-average": "c2328753b4c2",
    "ablation-no-cutmix": "484c253d5842",
    "ablation-no-label-smoothing": "86d4cf3194b4",
    "ablation-no-warmup": "9dacb19c0961",
    "ablation-reference": "391a19dc7c47",
    "ablation-reference-decay": "5d27c25dfbf8",
    "ablation-rotation": "f67ac340b3c6",
    "ablation-zero-gamma": "f09560b581fb",
    "demo": "d416526553d4",
    "original": "c7eabe89e968",
    "quick": "8cca7f6f774c",
    "short": "e255be6a1861",
    "small": "703ec20dcadc",
    "tuned": "5c618e821e95",
}


def test_settings_are_what_dvc_takes() -> None:
    assert [f"{name}={value}" for name, value in recipes.settings(yaml.safe_load(RECIPE))] == [
        "train.all_images=true",
        "train.schedule.warmup=0.3",
        "train.optimizer.betas=[0.8, 0.9]",
        "train.model.name=other",
        "evaluate.precision=bfloat16",
    ]


def test_a_recipe_stands_on_others(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train: {epochs: 1, optimizer: {lr: 1, betas: [0, 0]}}")
    (tmp_path / "high.yaml").write_text("train: {epochs: 2}\nevaluate: {flip: true}")
    (tmp_path / "in").mkdir()
    top = tmp_path / "in/top.yaml"
    top.write_text("base: [../low.yaml, ../high.yaml]\ntrain: {optimizer: {betas: [1, 1]}}")
    expected = {"train": {"epochs": 2, "optimizer": {"lr": 1, "betas": [1, 1]}}, "evaluate": {"flip": True}}
    assert recipes.read_recipe(top) == expected


def test_a_recipe_cannot_name_what_params_lack() -> None:
    with pytest.raises(ValueError, match="no 'epoch'; it has epochs"):
        scratch.merge({"train": {"epochs": 1}}, {"train": {"epoch": 2}})


def test_a_recipe_is_named_after_its_path() -> None:
    assert recipes.title(Path("recipes/ablation/no-cutmix.yaml")) == "ablation-no-cutmix"
    assert recipes.title(Path("recipes/quick.yaml").absolute()) == "quick"
    assert recipes.title(Path("/elsewhere/mine.yaml")) == "mine"


def test_the_original_says_every_value() -> None:
    original, params = (
        files.read_yaml(scratch.ROOT / path) for path in ("recipes/original.yaml", "params.yaml")
    )
    for section in ("preprocess", "train", "evaluate"):
        own, known = (dict(recipes.settings(values[section])) for values in (original, params))
        assert own.keys() == known.keys(), section
    assert original["fetch"]["dataset"] == "cifar10"
    assert original["preprocess"]["validation_images"] == 5000
    assert original["evaluate"]["flip"] is False


def test_the_default_is_the_original_until_a_run_of_the_short_one_is_locked() -> None:
    locked = "train" in files.read_yaml(scratch.ROOT / "dvc.lock")["stages"]
    default = scratch.ROOT / f"recipes/{'short' if locked else 'original'}.yaml"
    assert recipes.whole(default) == files.read_yaml(scratch.ROOT / "params.yaml")


def test_no_recipe_changes_with_params(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests() -> dict[str, str]:
        found = {}
        for path in sorted(scratch.ROOT.glob("recipes/**/*.yaml")):
            values = dict(recipes.settings(recipes.whole(path)))
            deciding = {name: value for name, value in values.items() if name.startswith(DECIDING)}
            text = json.dumps(deciding, sort_keys=True)
            found[recipes.title(path)] = hashlib.sha256(text.encode()).hexdigest()[:12]
        return found

    assert digests() == VALUES
    short = recipes.whole(scratch.ROOT / "recipes/short.yaml")
    read = files.read_yaml
    monkeypatch.setattr(files, "read_yaml", lambda path: short if path.name == "params.yaml" else read(path))
    assert digests() == VALUES


@pytest.mark.parametrize("recipe", sorted(scratch.ROOT.glob("recipes/**/*.yaml")), ids=recipes.title)
def test_a_recipe_is_valid_and_holds_only_what_differs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, params = files.read_yaml(recipe), files.read_yaml(scratch.ROOT / "params.yaml")
    bases = own.pop("base", [])
    for base in bases:
        scratch.merge(params, recipes.read_recipe(recipe.parent / base))
    before = dict(recipes.settings(params))
    for name, value in recipes.settings(own):
        assert not bases or before[name] != value, f"{name} is as it would be without it"
    assert bases or recipes.title(recipe) == "original"
    scratch.merge(params, own)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    for section, config_class in CONFIGS.items():
        files.read_params(section, config_class)


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
