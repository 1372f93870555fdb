"""What the pages say of this repository is so."""

import functools
import json
import re
import subprocess
import tomllib
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.report import RESULTS
from cifar_resnet import files
from tools.scratch import ROOT, git

RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken, page.name


def test_the_performance_page_is_made_of_all_results() -> None:
    document = tables.DOCUMENT.read_text()
    assert tables.rendered(document) == document, "run `python -m benchmarks.tables`"
    named = set(re.findall(r"<!-- results: (\S+) -->", document))
    assert {path.stem for path in RESULTS.glob("*.json")} <= named


def value(document: Any, key: str) -> float:
    """The number under a key with dots."""
    names = key.split(".")
    return float(
        functools.reduce(
            lambda part, name: part[int(name) if isinstance(part, list) else name], names, document
        )
    )


def test_each_figure_of_the_claims_is_that_of_its_file_and_each_command_can_be_run() -> None:
    lines = (ROOT / "docs/claims.md").read_text().split("\n|---")[1].split("\n\n")[0].splitlines()[1:]
    assert 6 <= len(lines) <= 8
    figures = 0
    for line in lines:
        _, figure, command, minutes, *_ = [cell.strip() for cell in line.split("|")[1:]]
        for path in re.findall(r"(?:tests|recipes)/[\w/.]+", command):
            assert (ROOT / path).exists()
        assert float(minutes.split()[0]) > 0
        if figure:
            match = re.fullmatch(r"([\d.]+)[^`]*`(.*)`: `(.*)`", figure)
            assert match, line
            stated, path, key = match.groups()
            measured = value(json.loads((ROOT / path).read_text()), key) * (100 if "%" in figure else 1)
            digits = len(stated.partition(".")[2])
            assert stated == f"{measured:.{digits}f}", line
            figures += 1
    assert figures >= 3


@pytest.mark.slow
def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = files.read_yaml(ROOT / "CITATION.cff")
    releases = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())
    assert citation["version"] == project["version"] == releases[0]
    assert " AND ".join(citation["license"]) == project["license"]
    tags = git(ROOT, "tag", "--list", "v*").split()
    assert {tag.removeprefix("v") for tag in tags} <= set(releases)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.citation-file-format", "CITATION.cff"), ("vendor.dependabot", ".github/dependabot.yml")],
)
def test_files_that_other_programs_read_have_their_form(schema: str, path: str) -> None:
    command = ["check-jsonschema", "--builtin-schema", schema, "--default-filetype", "yaml", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_is_of_others_is_named_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text()
    lists = git(ROOT, "ls-files", "src/cifar_resnet/evaluation/published").split()
    pictures = git(ROOT, "ls-files", "plots/*.png", "docs/duplicates/*.png").split()
    of_images = [path for path in pictures if "curves" not in path and "confusion" not in path]
    assert lists
    missing = [path for path in [*lists, *of_images] if path.split("published/")[-1] not in notice]
    assert not missing
