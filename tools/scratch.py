"""A scratch clone: the files of this working tree, without its results, in a git repository of their own."""

import io
import subprocess
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cifar_resnet import files, params
from cifar_resnet.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("dvc.lock", "metrics/", "plots/", "released/")
IDENTITY = ("-c", "user.name=scratch", "-c", "user.email=scratch@localhost")


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` and return what it prints. Raises UserError with git's own reason."""
    return git_bytes(folder, *arguments).decode()


def git_bytes(folder: Path, *arguments: str) -> bytes:
    """Run git in `folder` and return the bytes that it prints. Raises UserError with git's own reason."""
    done = subprocess.run(["git", "-C", str(folder), *IDENTITY, *arguments], capture_output=True)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise UserError(f"`git {arguments[0]}` in {folder}: {reason}")
    return done.stdout


def commit(folder: Path, message: str) -> None:
    """Commit everything in `folder`, changed or not."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


def isolate(folder: Path) -> None:
    """Let the repository in `folder` ignore what this user's own settings would do to a commit."""
    git(folder, "config", "commit.gpgsign", "false")
    git(folder, "config", "core.hooksPath", "/dev/null")


def configure(dvc_dir: Path, section: str, name: str, value: str) -> None:
    """Set a path in this clone's own settings of DVC, which itself can write ASCII only.

    Raises UserError when DVC could not read the path.
    """
    if not value.isprintable() or '"' in value or "%(" in value:
        raise UserError(f"DVC's settings cannot have the path {value!a}: rename the folder")
    config, path = ConfigParser(interpolation=None, strict=False), dvc_dir / "config.local"
    config.read(path, encoding="utf-8")
    config.read_dict({section: {name: f'"{value}"'}})
    with path.open("w", encoding="utf-8") as file:
        config.write(file)


def clone(destination: Path, changes: Mapping[str, Any]) -> None:
    """Make `destination` equal the working tree, uncommitted edits included, with `changes` in params.yaml.

    Files that are already the same stay untouched, and so do results of an earlier run there. Works in a
    source tree without `.git` too.
    """
    if not (destination / ".git").exists():
        destination.mkdir(parents=True, exist_ok=True)
        git(destination, "init", "--quiet")
        isolate(destination)
    unpacked = () if (ROOT / ".git").exists() else (f"--git-dir={destination}/.git", f"--work-tree={ROOT}")
    ours = _files(ROOT, *unpacked, "ls-files", "--cached", "--others", "--exclude-standard")
    for path in _files(destination, "ls-files", "--cached") - ours:
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
    """Put the values of nested `changes` into a YAML file, all of whose other lines stay as they are.

    Raises UserError as `merge` does with `known_only`; then the file stays as it is.
    """
    yaml = YAML()
    yaml.default_flow_style = None  # a list of numbers stays on one line
    yaml.indent(sequence=4, offset=2)
    yaml.width = 1000
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    params.read_yaml(path)  # raises UserError for what is no YAML
    content, changed = path.read_bytes(), io.BytesIO()
    end = b"\r\n" if b"\r\n" in content else b"\n"
    yaml.dump(merge(yaml.load(content.replace(end, b"\n")) or {}, changes, known_only=True), changed)
    files.write_bytes(path, changed.getvalue().replace(b"\n", end))


def merge(
    below: dict[str, Any], above: Mapping[str, Any], known_only: bool = False, place: str = ""
) -> dict[str, Any]:
    """Lay the nested values of `above` over those of `below`, in place; return `below`.

    Raises UserError where a section meets a value, and with `known_only` for a name that `below` lacks.
    `place`: the name of the section, with dots.
    """
    for name, value in above.items():
        full = f"{place}{name}"
        if name not in below:
            if known_only:
                raise UserError(f"params.yaml has no {full!r}; it has {', '.join(map(str, below))} there")
            below[name] = merge({}, value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping) != isinstance(below[name], Mapping):
            one, other = ("a value", "a section") if isinstance(value, Mapping) else ("a section", "a value")
            raise UserError(f"{full} is {one} ({below[name]}), and {other} ({value}) cannot take its place")
        elif isinstance(value, Mapping):
            merge(below[name], value, known_only, f"{full}.")
        elif below[name] != value:  # or a number would lose its spelling
            below[name] = value
    return below


def _files(folder: Path, *command: str) -> set[str]:
    """The files that `git ls-files` lists in `folder`, that exist and are no results."""
    listed = git(folder, *command, "-z").split("\0")
    return {path for path in listed if path and not path.startswith(RESULTS) and (folder / path).is_file()}
