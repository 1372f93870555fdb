"""Recipes: files with the values that differ from params.yaml, or from other recipes that they stand on.

`python -m tools.recipes RECIPE` puts a recipe's values into params.yaml.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from cifar_resnet import params
from cifar_resnet.errors import UserError
from cifar_resnet.process import command
from tools import scratch

FOLDER = Path("recipes")


def read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a recipe's nested values, laid over those of the recipes that it names as its `base`.

    Of several bases a later one goes before an earlier one. `above`: the recipes that stand on this one.
    Raises UserError when a file is no recipe, or stands on itself.
    """
    recipe = params.read_yaml(path)
    bases = recipe.pop("base", []) if isinstance(recipe, dict) else None
    if not isinstance(bases, list):
        raise UserError(f"{path}: a recipe has sections of params.yaml, and its base is a list of files")
    if path.resolve() in above:
        raise UserError(f"{path} has itself as its base")
    values: dict[str, Any] = {}
    for base in bases:
        scratch.merge(values, read_recipe(path.parent / str(base), (*above, path.resolve())))
    return scratch.merge(values, recipe)


def with_recipe(recipe: Path) -> dict[str, Any]:
    """Return params.yaml with the values of a recipe."""
    return scratch.merge(params.read_yaml(Path("params.yaml")), read_recipe(recipe))


def settings(values: dict[str, Any]) -> list[str]:
    """Return NAME=VALUE, as `dvc exp run --set-param` takes it, for each of nested `values`."""
    return ["=".join([name, json.dumps(one).strip('"')]) for name, one in params.flatten(values).items()]


def recipe_name(recipe: Path) -> str:
    """Return a recipe's name: its path in recipes/ with dashes, or its file's name if it is elsewhere."""
    inside = recipe.absolute().is_relative_to(FOLDER.absolute())
    path = recipe.absolute().relative_to(FOLDER.absolute()) if inside else Path(recipe.name)
    return "-".join(path.with_suffix("").parts)


def main() -> None:
    """Put a recipe's values into params.yaml, whose comments stay."""
    parser = argparse.ArgumentParser(prog="python -m tools.recipes", description=main.__doc__)
    parser.add_argument("recipe", type=Path, metavar="RECIPE")
    if values := read_recipe(parser.parse_args().recipe):
        scratch.change(Path("params.yaml"), values)


if __name__ == "__main__":
    with command.one_line():
        main()
