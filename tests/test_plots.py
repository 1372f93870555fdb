"""The page of `dvc plots show`: its charts, and in a real browser without a network."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from dvc.repo import Repo

from tests.conftest import Clone
from tests.test_graph import entries
from tools import scratch
from tools.experiment import Baseline, Experiment

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or ""
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom
"""
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"
CSV = [settings for path, settings in entries("plots") if path.endswith(".csv")]
CHARTS = {"Loss", "Accuracy", *(settings["title"] for settings in CSV)}


def drawn(clone: Clone, *command: str) -> tuple[dict[str, int], str]:
    """How many marks each chart has that a command of DVC draws, by its title; the page."""
    clone.dvc("plots", *command)
    page = clone.read("dvc_plots/index.html").decode()
    found = {}
    for text in re.findall(r"var spec = (\{.*\});$", page, re.MULTILINE):
        spec: dict[str, Any] = json.loads(text)
        title = spec["title"]["text"] if isinstance(spec["title"], dict) else spec["title"]
        found[title] = vl_convert.vegalite_to_svg(spec, vl_version="5.21").count('role="graphics-symbol"')
    return found, page


def test_every_chart_and_picture_is_drawn(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path)
    shown, page = drawn(clone, "show")
    assert set(shown) == CHARTS
    assert all(count > 0 for count in shown.values()), shown
    pictures = {name.split("_")[-1] for name in re.findall(r'<img src="static/([^"]*)"', page)}
    assert pictures == {path.name for path in (clone.folder / "plots").glob("*.png")}
    for path in (clone.folder / "plots").glob("*.csv"):  # as another run would have left it
        path.write_text(path.read_text().replace("0.", "0.1"))
    compared, page = drawn(clone, "diff", "HEAD")
    assert set(compared) == CHARTS
    assert all(count >= shown[title] for title, count in compared.items())
    assert {"HEAD", "workspace"} <= set(re.findall(r'"rev": "(\w+)"', page))


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    """A copy of the finished clone, set up."""
    clone = finished.copy(tmp_path)
    clone.run("python", "-m", "tools.plots_page")
    return clone


def test_setting_up_makes_a_cache_that_no_other_user_can_write_to(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scratch.git(clone.folder, "status", "--porcelain") == ""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    commit = scratch.git(clone.folder, "rev-parse", "HEAD").strip()
    start = Baseline(clone.folder, commit, "", str(clone.folder / ".dvc/cache"))
    (tmp_path / "run").mkdir()
    Experiment("run", [], [], start)._clone(tmp_path / "run")
    for folder in (clone.folder, tmp_path / "run"):  # a sweep runs in clones of its own
        with Repo(str(folder)) as repo:
            assert Path(repo.site_cache_dir).is_relative_to(clone.folder / ".dvc/tmp/site")
    assert (clone.folder / ".dvc/tmp/site").stat().st_mode & 0o777 == 0o700


def test_the_page_knows_no_absolute_path_and_loads_nothing_from_the_network(clone: Clone) -> None:
    clone.dvc("plots", "show")
    page = clone.read("dvc_plots/index.html").decode()
    assert str(clone.folder) not in page
    elsewhere = r"""(src|href)\s*=\s*["']?(https?:)?//|@import|cdn\.|jsdelivr|unpkg"""
    needed_without_setup = re.findall(r'<script[^>]* src="https:[^"]*/npm/([\w-]+)', page)
    assert needed_without_setup == ["vega", "vega-lite", "vega-embed"]
    assert not re.search(elsewhere, re.sub(r"<noscript.*?</noscript>", "", page, flags=re.DOTALL))
    script = clone.read(".dvc/plots/vega.js").decode()
    assert "Vega-Lite:  Copyright (c)" in script[: script.index("*/")]


@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")
def test_a_browser_draws_or_says_what_it_needs(clone: Clone, tmp_path: Path) -> None:
    running = ".dvc/tmp/exps/standalone/tmp1"  # of `dvc exp run --temp`
    for folder, charts in ((running, True), ("../never set up", False)):
        other = Clone(clone.folder / folder, clone.cache)
        scratch.git(clone.folder, "clone", "--quiet", ".", str(other.folder))
        other.dvc("plots", "show", "plots/history.csv")
        address = (other.folder / "dvc_plots/index.html").as_uri()
        command = [CHROMIUM, *FLAGS.split(), OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", address]
        browser = subprocess.run(command, capture_output=True, text=True, timeout=120)
        for text in ("<svg", "Title text 'Learning rate'", '<p id="no-charts" hidden="">'):
            assert (text in browser.stdout) == charts
        if charts:
            # DVC's charts name version 5 of Vega-Lite and have empty channels.
            known = ("WARN ", "The input spec uses Vega-Lite v5")
            console = re.findall(r'CONSOLE:\d+\] "(.*)", source:', browser.stderr)
            assert not [line for line in console if not line.startswith(known)]
