"""A remote of DVC that several clones share; here the remote is a folder."""

import re
from pathlib import Path

import pytest

from tests.conftest import Clone
from tools import scratch

pytestmark = pytest.mark.slow


def test_the_run_cache_is_shared(finished: Clone, tmp_path: Path) -> None:
    """Also what no commit names: here nothing is locked."""
    member = finished.copy(tmp_path / "member")
    member.dvc("remote", "add", "--default", "team", str(tmp_path / "remote"))
    scratch.commit(member.folder, "a remote")
    assert re.search(
        r"^\d+ runs, \d+ more files", member.run("python", "-m", "tools.push_runs"), re.MULTILINE
    )
    clone = member.inside("../../another")
    scratch.git(tmp_path, "clone", "--quiet", str(member.folder), "another")
    clone.dvc("pull", "--run-cache")
    lock = clone.read("dvc.lock")
    (clone.folder / "dvc.lock").unlink()
    printed = clone.dvc("repro", "--pull")
    assert "Running stage" not in printed
    assert printed.count("is cached - skipping run, checking out outputs") == 6
    assert clone.read("dvc.lock") == lock
