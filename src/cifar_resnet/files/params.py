"""Sections of params.yaml as checked settings, and the error for what a person can put right."""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class UserError(ValueError):
    """What a person can put right. It is shown as one line that says what, where and the next step."""


class Config(BaseModel):
    """A section of params.yaml: every name is known, no value changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)


class _Loader(yaml.SafeLoader):
    """Reads as DVC does, by YAML 1.2: 1e-3 is a number and `yes` a text, and no name may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds. Raises UserError when it is not valid."""
    try:
        return yaml.load(path.read_bytes(), _Loader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


def read_section(section: str) -> Any:
    """Return one section of params.yaml as it stands there, for a stage that shows what another one used."""
    document = read_yaml(Path("params.yaml"))
    sections = document if isinstance(document, dict) else {}
    if section not in sections:
        raise UserError(f"params.yaml has no section {section!r}{_nearest(section, sections)}")
    return sections[section]


def read_params(section: str, config_class: type[AnyConfig]) -> AnyConfig:
    """Return one section of params.yaml. Raises UserError that names each wrong entry and what to do."""
    values = read_section(section)
    try:
        return config_class.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        lines = [_describe(section, config_class, details) for details in error.errors()]
        raise UserError("params.yaml: " + "; ".join(lines)) from None


def _nearest(name: str, names: Iterable[Any]) -> str:
    match = difflib.get_close_matches(name, map(str, names), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _describe(section: str, config_class: type[BaseModel], details: Any) -> str:
    config_class, names = _follow(config_class, details["loc"])
    path = ".".join([section, *names])
    if details["type"] != "extra_forbidden":
        found = "" if isinstance(details["input"], dict) else f" (it is {details['input']!r})"
        message = details["msg"].removeprefix("Value error, ")
        return f"{path}: {message[:1].lower()}{message[1:]}{found}"
    fields = list(config_class.model_fields)
    return f"{path}: unknown name{_nearest(names[-1], fields) or '; known are ' + ', '.join(fields)}"


def _follow(config_class: type[BaseModel], location: tuple[Any, ...]) -> tuple[type[BaseModel], list[str]]:
    """Return the innermost section of a location with the names on the way to it, as params.yaml has them.

    Where a section's kind is named in it (a discriminated union), pydantic puts that name into the location.
    """
    names: list[str] = []
    parts = iter(location)
    for part in parts:
        names.append(str(part))
        field = config_class.model_fields.get(part)
        kind = next(parts, None) if field and field.discriminator else None
        for choice in (get_args(field.annotation) or (field.annotation,)) if field else ():
            if (
                isinstance(choice, type)
                and issubclass(choice, BaseModel)
                and (kind is None or choice.model_fields["name"].default == kind)
            ):
                config_class = choice
    return config_class, names
