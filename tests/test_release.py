"""One version: in pyproject.toml, CITATION.cff, CHANGELOG.md and the tags of git."""

import re
import subprocess
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
