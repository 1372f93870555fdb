"""One version: in pyproject.toml, CITATION.cff, CHANGELOG.md and the tags of git."""

import re
import tomllib

import pytest

from cifar_resnet import files
from tools.scratch import ROOT, git

RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)


@pytest.mark.slow
def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = files.read_yaml(ROOT / "CITATION.cff")
    releases = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())
    assert citation["version"] == project["version"] == releases[0]
    assert citation["license"] == project["license"]
    tags = git(ROOT, "tag", "--list", "v*").split()
    assert {tag.removeprefix("v") for tag in tags} <= set(releases)
