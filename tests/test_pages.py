"""What the pages say of this repository is so."""

import re
import tomllib

import pytest

from benchmarks import tables
from benchmarks.report import RESULTS
from cifar_resnet import files
from tools.scratch import ROOT, git

RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken, page.name


def test_the_performance_page_is_made_of_all_results() -> None:
    document = tables.DOCUMENT.read_text()
    assert tables.rendered(document) == document, "run `python -m benchmarks.tables`"
    named = set(re.findall(r"<!-- results: (\S+) -->", document))
    assert {path.stem for path in RESULTS.glob("*.json")} <= named


@pytest.mark.slow
def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = files.read_yaml(ROOT / "CITATION.cff")
    releases = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())
    assert citation["version"] == project["version"] == releases[0]
    assert citation["license"] == project["license"]
    tags = git(ROOT, "tag", "--list", "v*").split()
    assert {tag.removeprefix("v") for tag in tags} <= set(releases)
