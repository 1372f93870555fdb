""".github/workflows: valid, with few rights; what they run is run here too."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from tests.conftest import Clone
from tools import scratch
from tools.scratch import ROOT

pytestmark = pytest.mark.slow

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def steps(workflow: str) -> list[dict[str, Any]]:
    """The steps of a workflow's only job."""
    (job,) = files.read_yaml(ROOT / f".github/workflows/{workflow}.yml")["jobs"].values()
    return list(job["steps"])


def test_the_workflows_are_what_github_takes() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert len(WORKFLOWS) == 2
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_token_of_a_workflow_can_do_little(path: Path) -> None:
    workflow = files.read_yaml(path)
    rights = workflow["permissions"]
    assert rights["contents"] == "read"
    assert set(rights) <= {"contents", "pull-requests"}
    assert "pull_request_target" not in path.read_text()
    for step in steps(path.stem):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step.get("uses", f"actions/x@{'0' * 40}"))
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        if "GH_TOKEN" in step.get("env", {}):
            assert "head.repo.full_name == github.repository" in step["if"]
            assert step["run"].startswith("gh pr comment ")
        assert "${{" not in step.get("run", "")  # values come by the environment: no title becomes a command


def test_the_report_has_params_metrics_and_curves(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    before = scratch.git(clone.folder, "rev-parse", "HEAD").strip()
    clone.change({"train": {"optimizer": {"lr": 0.5}}})
    metrics = json.loads(clone.read("metrics/test.json")) | {"test_accuracy": 0.25}
    (clone.folder / "metrics/test.json").write_text(json.dumps(metrics))
    scratch.commit(clone.folder, "another rate")
    after = scratch.git(clone.folder, "rev-parse", "HEAD").strip()
    (script,) = [step["run"] for step in steps("report") if step.get("name") == "Write the report"]
    summary = tmp_path / "summary"
    clone.run(
        *("bash", "-e", "-c", script),
        TARGET=before,
        PICTURES="https://host/raw",
        GITHUB_STEP_SUMMARY=str(summary),
    )
    report = clone.read("report.md").decode()
    assert summary.read_text() == report
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines()]
    assert ["params.yaml", "train.optimizer.lr", "0.001", "0.5"] in rows
    (row,) = [row for row in rows if row[:2] == ["metrics/test.json", "test_accuracy"]]
    assert row[3] == "0.25"
    for commit in (before, after):
        assert f"(https://host/raw/{commit}/plots/curves.png)" in report
