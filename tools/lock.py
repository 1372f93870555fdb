"""What dvc.lock says, and what the files here or in a commit are: compared without DVC and without data."""

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import yaml

from cifar_resnet import files
from tools import scratch

LOCK = Path("dvc.lock")
SEARCHED = 200  # commits in which `base` looks for the code of a result
Stage = Mapping[str, Any]


def read() -> dict[str, Any]:
    """Return the stages of dvc.lock by name; none where there is no dvc.lock."""
    return files.read_yaml(LOCK)["stages"] if LOCK.exists() else {}


def digests(entries: list[dict[str, str]]) -> dict[str, str]:
    """Return the MD5 of each path in a stage's `deps` or `outs`."""
    return {entry["path"]: entry["md5"] for entry in entries}


def code(stages: Mapping[str, Stage], name: str) -> dict[str, str]:
    """Return the MD5 of what a stage depends on and no stage makes: its code, and a folder of pictures."""
    made = {entry["path"] for stage in stages.values() for entry in stage.get("outs", [])}
    return {path: md5 for path, md5 in digests(stages[name].get("deps", [])).items() if path not in made}


def identity(stages: Mapping[str, Stage]) -> tuple[str, bool]:
    """Return a digest of all that decides training except code, and whether the locked run has the same."""
    section, outs = files.read_section("train"), digests(stages["preprocess"]["outs"])
    tensors = {path: md5 for path, md5 in outs.items() if "/tensors/" in path}
    text = json.dumps([section, tensors], sort_keys=True)
    locked = stages["train"]["params"]["params.yaml"]["train"] if "train" in stages else None
    return hashlib.sha256(text.encode()).hexdigest(), section == locked


def outdated(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Return what of a locked stage is not as in dvc.yaml, params.yaml, its code and the other stages."""
    return changed_settings(stages, name) + changed_code(stages, name)


def changed_settings(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Return what of a locked stage is not as in dvc.yaml, params.yaml and the other stages."""
    stage, declared, wrong = stages[name], files.read_yaml(Path("dvc.yaml"))["stages"].get(name, {}), []
    params = files.read_yaml(Path("params.yaml"))
    ran_with = stage.get("params", {}).get("params.yaml", {})
    deps = digests(stage.get("deps", []))
    same = (
        stage["cmd"] == declared.get("cmd"),
        digests(stage["outs"]).keys() == outs(declared),
        deps.keys() - code(stages, name).keys() == set(declared.get("deps", [])) - declared_code(name),
        ran_with.keys() == set(declared.get("params", [])),
    )
    if not all(same):
        wrong.append(f"dvc.yaml: {name} is not the stage that ran: `git diff HEAD dvc.yaml dvc.lock`")
    for key, value in ran_with.items():
        if functools.reduce(lambda section, part: section.get(part), key.split("."), params) != value:
            wrong.append(f"params.yaml: {key} is not what {name} ran with: `git diff HEAD params.yaml`")
    made = {path: md5 for other in stages.values() for path, md5 in digests(other["outs"]).items()}
    return wrong + [
        f"{path} was another file when {name} read it: dvc.lock is not of one run, `dvc repro`"
        for path, md5 in deps.items()
        if made.get(path, md5) != md5
    ]


def changed_code(stages: Mapping[str, Stage], name: str) -> list[str]:
    """Return which code of a locked stage is not what it ran with."""
    wanted = code(stages, name)
    folder = files.read_section("fetch")["folder"]  # the one name in dvc.yaml that comes from params.yaml
    declared = {folder if path == "${fetch.folder}" else path for path in declared_code(name)}
    if wanted.keys() != declared:
        return [f"dvc.yaml: {name} depends on other code than in dvc.lock: `git diff HEAD dvc.yaml dvc.lock`"]
    here = code_digests(list(wanted))
    changed = [path for path in wanted if here.get(path) != wanted[path]]
    commit = base(wanted) if changed else None
    names = git("diff", "--name-only", commit, "--", *changed).split() if commit else []
    remedy = "`make harmless` if that changes no result" if name == "train" else f"`dvc repro {name}`"
    return [f"{path} is not what {name} ran with: {remedy}" for path in names or changed]


def declared_code(name: str, commit: str | None = None) -> set[str]:
    """Return what a stage of dvc.yaml, here or in a commit, depends on and no stage makes."""
    content = git("show", f"{commit}:dvc.yaml") if commit else Path("dvc.yaml").read_text()
    stages = yaml.safe_load(content)["stages"]
    return set(stages[name]["deps"]).difference(*map(outs, stages.values()))


def outs(declared: Stage) -> set[str]:
    """Return the outputs of a stage of dvc.yaml."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in declared.get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def digest(path: Path) -> str:
    """Return the MD5 that DVC gives a file here."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def code_digests(paths: list[str], commit: str | None = None) -> dict[str, str]:
    """Return the MD5 that DVC gives each file or folder in `commit`, or here; without those it lacks."""
    inside_all = contents(paths, commit)
    found = {}
    for path in paths:
        inside = {
            name.removeprefix(f"{path}/"): _md5(content)
            for name, content in inside_all.items()
            if name.startswith(f"{path}/")
        }
        if path in inside_all:
            found[path] = _md5(inside_all[path])
        elif inside:
            listed = [{"md5": inside[name], "relpath": name} for name in sorted(inside)]
            found[path] = f"{_md5(json.dumps(listed).encode())}.dir"
    return found


def contents(paths: Iterable[str], commit: str | None = None) -> dict[str, bytes]:
    """Return the files of `paths` here or in a commit, also those in folders; none if it lacks a path."""
    return dict(_committed(paths, commit) if commit else _here(paths))


def base(wanted: Mapping[str, str]) -> str | None:
    """Return the newest commit in which the files or folders have the MD5 of `wanted`, if there is one."""
    paths = list(wanted)
    for commit in git("log", f"-{SEARCHED}", "--format=%H", "--", str(LOCK), *paths).split():
        if code_digests(paths, commit) == wanted:
            return commit
    return None


def git(*arguments: str) -> str:
    """Return what git prints in this working folder."""
    return scratch.git(Path(), *arguments)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()  # DVC's choice


def _here(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file that DVC counts: no ignored one."""
    ignored = ("--exclude-standard", "--exclude-from=.dvcignore")
    for name in git("ls-files", "-z", "--cached", "--others", *ignored, "--", *paths).split("\0"):
        if name and Path(name).is_file():
            yield name, Path(name).read_bytes()


def _committed(paths: Iterable[str], commit: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a commit; nothing where it lacks one of `paths`."""
    try:
        archive = scratch.git_bytes(Path(), "archive", commit, "--", *paths)
    except CalledProcessError:
        return
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            if member.isfile() and (file := opened.extractfile(member)):
                yield member.name, file.read()
