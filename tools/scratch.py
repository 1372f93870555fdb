"""A scratch clone: the files of this working tree, without its results, in a git repository of their own."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cifar_resnet.files.params import UserError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("dvc.lock", "metrics/", "plots/")
IDENTITY = ("-c", "user.name=scratch", "-c", "user.email=scratch@localhost")


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` and return what it prints."""
    return git_bytes(folder, *arguments).decode()


def git_bytes(folder: Path, *arguments: str) -> bytes:
    """Run git in `folder` and return the bytes that it prints."""
    command = ["git", "-C", str(folder), *IDENTITY, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def commit(folder: Path, message: str) -> None:
    """Commit everything in `folder`, changed or not."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


def clone(destination: Path, changes: Mapping[str, Any]) -> None:
    """Make `destination` equal the working tree, uncommitted edits included, with `changes` in params.yaml.

    Files that are already the same stay untouched, and so do results of an earlier run there.
    """
    if not (destination / ".git").exists():
        destination.mkdir(parents=True, exist_ok=True)
        git(destination, "init", "--quiet")
    ours = _files(ROOT, "--cached", "--others", "--exclude-standard")
    for path in _files(destination, "--cached") - ours:
        (destination / path).unlink(missing_ok=True)
    for path in ours:
        content, target = (ROOT / path).read_bytes(), destination / path
        if path != "params.yaml" and not (target.exists() and target.read_bytes() == content):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    (destination / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    change(destination / "params.yaml", changes)
    commit(destination, "Scratch clone")


def change(path: Path, changes: Mapping[str, Any]) -> None:
    """Put the values of nested `changes` into a YAML file, all of whose other lines stay as they are."""
    yaml = YAML()
    yaml.default_flow_style = None  # a list of numbers stays on one line
    yaml.indent(sequence=4, offset=2)
    yaml.width = 1000
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    params = yaml.load(path)
    merge(params, changes)
    yaml.dump(params, path)


def _files(folder: Path, *options: str) -> set[str]:
    """The files git lists in `folder` that exist and are no results."""
    listed = git(folder, "ls-files", "-z", *options).split("\0")
    return {path for path in listed if path and not path.startswith(RESULTS) and (folder / path).is_file()}


def merge(params: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put the values of nested `changes` into `params`, in place. Raises UserError for a name it lacks."""
    for name, value in changes.items():
        if name not in params:
            raise UserError(f"params.yaml has no {name!r}; it has {', '.join(params)}")
        if isinstance(value, Mapping):
            merge(params[name], value)
        elif params[name] != value:  # or a number would lose its spelling
            params[name] = value
