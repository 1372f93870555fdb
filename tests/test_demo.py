"""`make demo`."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Clone
from tools import scratch


def test_a_recipe_cannot_name_what_params_lack() -> None:
    with pytest.raises(ValueError, match="no 'epoch'; it has epochs"):
        scratch.merge({"train": {"epochs": 1}}, {"train": {"epoch": 2}})


@pytest.mark.slow
def test_the_demo_learns_leaves_the_workspace_alone_and_does_nothing_twice(clone: Clone) -> None:
    shutil.copy(scratch.ROOT / "params.yaml", clone.folder)
    scratch.commit(clone.folder, "the committed params")
    first = clone.run("python", "-m", "tools.demo", OMP_NUM_THREADS="2")
    test = json.loads(clone.read(".demo/metrics/test.json"))
    assert test["accuracy"] >= 0.9
    assert first.count("Running stage") == 6
    page = re.search(r"readable offline: (\S+)", first)
    assert page
    assert Path(page[1]).stat().st_size > 100_000
    assert scratch.git(clone.folder, "status", "--porcelain") == ""
    second = clone.run("python", "-m", "tools.demo", OMP_NUM_THREADS="2")
    assert second.count("didn't change, skipping") == 6
    assert second[second.index("The kept epoch") :] == first[first.index("The kept epoch") :]
