"""What dvc.lock says, and what the files here or in a commit are: compared without DVC and without data."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from cifar_resnet import params
from cifar_resnet.errors import UserError
from tools import scratch

LOCK = Path("dvc.lock")
SEARCHED = 200  # commits in which `base` looks for the code of a result
DIFF = "`git diff HEAD dvc.yaml dvc.lock`"
# It agrees, it could not be looked at, it differs; with a line that says what, where and the next step.
Findings = Iterator[tuple[Literal["PASS", "----", "FAIL"], str]]
git = partial(scratch.git, Path())  # in this working folder


class Stage(NamedTuple):
    """A stage of dvc.lock; or of dvc.yaml, then without the values of params and the MD5s of files."""

    cmd: str
    params: dict[str, Any]
    code: dict[str, str]  # what no stage makes; a folder of pictures too
    data: dict[str, str]
    outs: dict[str, str]


Stages = Mapping[str, Stage]


def locked() -> Stages:
    """Return the stages of dvc.lock by name. Raises UserError when a stage of dvc.yaml has no run there."""
    stages = _stages(params.read_yaml(LOCK)) if LOCK.exists() else {}
    if missing := ", ".join(sorted(declared().keys() - stages.keys())):
        raise UserError(f"dvc.lock has no run of {missing}: `dvc repro` makes it")
    return stages


def declared(commit: str | None = None) -> Stages:
    """Return the stages of dvc.yaml by name, here or in a commit."""
    path = Path("dvc.yaml")
    return _stages(yaml.safe_load(git("show", f"{commit}:{path}")) if commit else params.read_yaml(path))


def _stages(document: dict[str, Any]) -> Stages:
    stages, folder = document["stages"], params.read_section("fetch")["folder"]

    def paths(stage: dict[str, Any], *kinds: str) -> dict[str, str]:
        """MD5 by path. In dvc.yaml an entry is a path or {path: options}; one path is of params.yaml."""
        found = {}
        for entry in (entry for kind in kinds for entry in stage.get(kind, [])):
            named = entry if isinstance(entry, str) else next(iter(entry))
            about = entry if "md5" in entry else {"path": named}
            found[about["path"].replace("${fetch.folder}", folder)] = about.get("md5", "")
        return found

    outs = {name: paths(stage, "outs", "metrics", "plots") for name, stage in stages.items()}
    made, found = set().union(*outs.values()), {}
    for name, stage in stages.items():
        deps, settings = paths(stage, "deps"), stage.get("params", {})
        values = settings.get("params.yaml", {}) if isinstance(settings, dict) else dict.fromkeys(settings)
        code, data = ({path: deps[path] for path in deps if (path in made) == is_made} for is_made in (0, 1))
        found[name] = Stage(stage["cmd"], values, code, data, outs[name])
    return found


def outdated(stages: Stages, name: str, code: bool = True) -> Iterator[str]:
    """Yield what of a locked stage is not as in dvc.yaml, params.yaml, the other stages, and its code."""
    stage, now, settings = stages[name], declared().get(name), params.read_yaml(Path("params.yaml"))
    shape, shape_now = (s and (s.cmd, s.params.keys(), s.data.keys(), s.outs.keys()) for s in (stage, now))
    if shape != shape_now:
        yield f"dvc.yaml: {name} is not the stage that ran: {DIFF}"
    for key, value in stage.params.items():
        if reduce(lambda section, part: section.get(part, {}), key.split("."), settings) != value:
            yield f"params.yaml: {key} is not what {name} ran with: `git diff HEAD params.yaml`"
    made = {path: md5 for other in stages.values() for path, md5 in other.outs.items()}
    for path, md5 in stage.data.items():
        if made.get(path, md5) != md5:
            yield f"{path} was another file when {name} read it: dvc.lock is not of one run, `dvc repro`"
    if code and now and stage.code.keys() != now.code.keys():
        yield f"dvc.yaml: {name} depends on other code than in dvc.lock: {DIFF}"
    elif code:
        here, remedy = digests(stage.code), f"`dvc repro {name}`"
        remedy = "`make harmless` if that changes no result" if name == "train" else remedy
        changed = [path for path in stage.code if here.get(path) != stage.code[path]]
        commit = base(stage.code) if changed else None
        names = git("diff", "--name-only", commit, "--", *changed).split() if commit else []
        yield from (f"{path} is not what {name} ran with: {remedy}" for path in names or changed)


def base(code: Mapping[str, str]) -> str | None:
    """Return the newest commit in which the files or folders have these MD5s, if there is one."""
    commits = git("log", f"-{SEARCHED}", "--format=%H", "--", str(LOCK), *code).split()
    return next((commit for commit in commits if digests(code, commit) == code), None)


def digests(paths: Iterable[str], commit: str | None = None) -> dict[str, str]:
    """Return the MD5 that DVC gives each file or folder in `commit`, or here; without those it lacks."""
    found = {name: _md5(content) for name, content in sorted(contents(paths, commit).items())}
    for folder in set(paths) - found.keys():
        inside = [name for name in found if name.startswith(f"{folder}/")]
        if inside:
            listed = [{"md5": found[name], "relpath": name.removeprefix(f"{folder}/")} for name in inside]
            found[folder] = f"{_md5(json.dumps(listed).encode())}.dir"
    return {path: found[path] for path in paths if path in found}


def contents(paths: Iterable[str], commit: str | None = None) -> dict[str, bytes]:
    """Return the files of `paths` here or in a commit, also those in folders; none if it lacks a path.

    Here only those count that DVC counts: no ignored ones.
    """
    if commit is None:
        ignored = ("--exclude-standard", "--exclude-from=.dvcignore")
        names = git("ls-files", "-z", "--cached", "--others", *ignored, "--", *paths).split("\0")
        return {name: Path(name).read_bytes() for name in names if Path(name).is_file()}
    try:
        archive = scratch.git_bytes(Path(), "archive", commit, "--", *paths)
    except UserError:
        return {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {file.name: opened.extractfile(file).read() for file in opened if file.isfile()}  # type: ignore[union-attr]


def digest(path: str) -> str | None:
    """Return the MD5 that DVC gives a file here, None where there is none."""
    return _md5(Path(path).read_bytes()) if Path(path).is_file() else None


def remedy(stages: Stages, path: str) -> str:
    """Return the command that brings back a file that a locked stage has made."""
    if git("ls-files", "--", path):
        return f"git checkout HEAD {path}"
    maker = next(name for name, stage in stages.items() if path in stage.outs)
    return f"dvc pull --force -r released {path}" if maker == "train" else f"dvc repro {maker}"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()  # DVC's choice
