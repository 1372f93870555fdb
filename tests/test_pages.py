"""What the pages say of this repository is so; workflows have few rights, and the report is run here."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.report import RESULTS
from cifar_resnet import params
from tests.conftest import Clone
from tools.scratch import ROOT, commit, git

RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)


def test_every_link_leads_to_a_file_and_to_a_heading_of_it() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for path, heading in re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
            target = page.parent / path if path else page
            assert target.exists(), (page.name, path)
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                names = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
                assert heading in names, (page.name, path, heading)


def test_the_performance_page_is_made_of_all_results() -> None:
    document = tables.DOCUMENT.read_text()
    assert tables.rendered(document) == document, "run `python -m benchmarks.tables`"
    named = set(re.findall(r"<!-- results: (\S+) -->", document))
    assert {path.stem for path in RESULTS.glob("*.json")} <= named


def value(document: Any, key: str) -> float:
    """The number under a key with dots."""
    for name in key.split("."):
        document = document[int(name) if isinstance(document, list) else name]
    return float(document)


def test_each_figure_of_the_claims_is_that_of_its_file_and_each_command_can_be_run() -> None:
    lines = (ROOT / "docs/claims.md").read_text().split("\n|---")[1].split("\n\n")[0].splitlines()[1:]
    assert 6 <= len(lines) <= 8
    figures = []
    for line in lines:
        _, figure, command, minutes, *_ = [cell.strip() for cell in line.split("|")[1:]]
        assert all((ROOT / path).exists() for path in re.findall(r"(?:tests|recipes)/[\w/.]+", command))
        assert float(minutes.split()[0]) > 0
        figures += [figure] * bool(figure)
    for figure in figures:
        match = re.fullmatch(r"([\d.]+)[^`]*`(.*)`: `(.*)`", figure)
        assert match, figure
        stated, path, key = match.groups()
        measured = value(json.loads((ROOT / path).read_text()), key) * (100 if "%" in figure else 1)
        assert stated == f"{measured:.{len(stated.partition('.')[2])}f}", figure
    assert len(figures) >= 3


@pytest.mark.slow
def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = params.read_yaml(ROOT / "CITATION.cff")
    releases = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())
    assert citation["version"] == project["version"] == releases[0]
    assert " AND ".join(citation["license"]) == project["license"]
    tags = git(ROOT, "tag", "--list", "v*").split()
    assert {tag.removeprefix("v") for tag in tags} <= set(releases)


@pytest.mark.slow
def test_what_is_of_others_is_named_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text()
    lists = git(ROOT, "ls-files", "src/cifar_resnet/evaluation/published").split()
    pictures = git(ROOT, "ls-files", "plots/*.png", "docs/duplicates/*.png").split()
    of_images = [path for path in pictures if "curves" not in path and "confusion" not in path]
    assert lists
    missing = [path for path in [*lists, *of_images] if path.split("published/")[-1] not in notice]
    assert not missing


def steps(workflow: str) -> list[dict[str, Any]]:
    """The steps of a workflow's only job."""
    (job,) = params.read_yaml(ROOT / f".github/workflows/{workflow}.yml")["jobs"].values()
    return list(job["steps"])


@pytest.mark.parametrize("name", ["ci", "report"])
def test_the_token_of_a_workflow_can_do_little(name: str) -> None:
    path = ROOT / f".github/workflows/{name}.yml"
    assert params.read_yaml(path)["permissions"] in (
        {"contents": "read"},
        {"contents": "read", "pull-requests": "write"},
    )
    assert "pull_request_target" not in path.read_text()
    for step in steps(name):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step.get("uses", f"actions/x@{'0' * 40}"))
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        if "GH_TOKEN" in step.get("env", {}):
            assert "head.repo.full_name == github.repository" in step["if"]
            assert step["run"].startswith("gh pr comment ")
        for line in step.get("run", "").splitlines():
            assert "pip install" not in line or "--require-hashes" in line
        assert "${{" not in step.get("run", "")  # values come by the environment: no title becomes a command


def test_the_report_has_params_metrics_and_curves(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    before = git(clone.folder, "rev-parse", "HEAD").strip()
    clone.change({"train": {"optimizer": {"lr": 0.5}}})
    metrics = json.loads(clone.read("metrics/test.json")) | {"test_accuracy": 0.25}
    (clone.folder / "metrics/test.json").write_text(json.dumps(metrics))
    commit(clone.folder, "another rate")
    after = git(clone.folder, "rev-parse", "HEAD").strip()
    (script,) = [step["run"] for step in steps("report") if step.get("name") == "Write the report"]
    command = (
        f"export TARGET={before} PICTURES=https://host/raw GITHUB_STEP_SUMMARY={tmp_path}/summary; {script}"
    )
    clone.run("bash", "-e", "-c", command)
    report = clone.read("report.md").decode()
    assert (tmp_path / "summary").read_text() == report
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines()]
    assert ["params.yaml", "train.optimizer.lr", "0.001", "0.5"] in rows
    (row,) = [row for row in rows if row[:2] == ["metrics/test.json", "test_accuracy"]]
    assert row[3] == "0.25"
    for which in (before, after):
        assert f"(https://host/raw/{which}/plots/curves.png)" in report
