"""Recipes: files with the values that differ from params.yaml, or from other recipes that they stand on.

`python -m tools.recipes RECIPE` puts a recipe's values into params.yaml.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifar_resnet import files
from cifar_resnet.process import command
from tools import scratch

FOLDER = Path("recipes")


def read_recipe(path: Path) -> dict[str, Any]:
    """Return a recipe's nested values, laid over those of the recipes that it names as its `base`.

    Of several bases a later one goes before an earlier one. Raises UserError when a file is not valid YAML.
    """
    recipe = files.read_yaml(path) or {}
    values: dict[str, Any] = {}
    for base in recipe.pop("base", []):
        values = overlaid(values, read_recipe(path.parent / base))
    return overlaid(values, recipe)


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested values of both, those of `above` where both have one."""
    merged = dict(below)
    for name, value in above.items():
        under = below.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[name] = overlaid(under, value)
        else:
            merged[name] = value
    return merged


def whole(recipe: Path) -> dict[str, Any]:
    """Return params.yaml with the values of a recipe."""
    return overlaid(files.read_yaml(Path("params.yaml")), read_recipe(recipe))


def settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value, as `dvc exp run --set-param` takes them, for each of nested `values`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value).strip('"')


def title(recipe: Path) -> str:
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
