"""params.yaml as checked settings, read as DVC reads it."""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cifar_resnet.errors import ParamsError, UserError

LIMIT = 100_000  # values of a YAML file, each counted as often as it is named by an alias


class Config(BaseModel):
    """A section of params.yaml: every name is known, no value changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, parsed as DVC does (ruamel.yaml, YAML 1.2). Empty: {}.

    Raises UserError when the file is not valid.
    """
    try:
        content = YAML(typ="safe").load(path.read_bytes()) or {}
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    nodes = [content]
    for _ in range(LIMIT):
        if not nodes:
            return content
        node = nodes.pop()
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    raise UserError(f"{path} has more than {LIMIT:,} values, or one that contains itself")


def read_section(section: str) -> Any:
    """Return one section of params.yaml as it stands there, for a stage that shows another stage's settings.

    Raises ParamsError when the section is missing.
    """
    document = read_yaml(Path("params.yaml"))
    sections = document if isinstance(document, dict) else {}
    if section not in sections:
        raise ParamsError(f"params.yaml has no section {section!r}{_suggest(section, sections)}")
    return sections[section]


def read(section: str, config_class: type[AnyConfig]) -> AnyConfig:
    """Return one section of params.yaml. Raises ParamsError that names each wrong entry and what to do."""
    values = read_section(section)
    try:
        return config_class.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        missing = [details["loc"] for details in error.errors() if details["type"] == "missing"]
        lines = [_explain(section, values, details, missing) for details in error.errors()]
        raise ParamsError("params.yaml: " + "; ".join(lines)) from None


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings under names with dots, as `dvc exp run -S` has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = flatten(value) if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}.{rest}": one for rest, one in inner.items()}
    return flat


def _suggest(name: str, names: Iterable[Any]) -> str:
    match = difflib.get_close_matches(name, map(str, names), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _explain(section: str, values: Any, details: Any, missing: list[tuple[Any, ...]]) -> str:
    """Return what is wrong with one entry. An unknown name suggests one that is missing at the same place."""
    names = [section]
    for part in details["loc"]:
        # Where a section's kind is named in it (a discriminated union), pydantic adds that name.
        inserted = isinstance(values, dict) and part not in values and values.get("name") == part
        if not inserted:
            names.append(str(part))
            values = values.get(part) if isinstance(values, dict) else values
    path = ".".join(names)
    if details["type"] == "extra_forbidden":
        beside = [loc[-1] for loc in missing if loc[:-1] == details["loc"][:-1]]
        return f"{path}: unknown name{_suggest(names[-1], beside)}"
    found = "" if isinstance(details["input"], dict) else f" (it is {details['input']!r})"
    message = details["msg"].removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}{found}"
