"""The page of `dvc plots show`: its charts, and in a real browser without a network."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from dvc.repo import Repo
from PIL import Image

from tests.conftest import Clone
from tools import scratch
from tools.experiment import Baseline, Experiment

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or ""
CHROMIUM_FLAGS = shlex.split("""
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom
    --host-resolver-rules="MAP * ~NOTFOUND"
""")
CHARTS = {
    "Training images per class",
    "Mean of each channel",
    "Loss",
    "Accuracy",
    "Learning rate",
    "Confusion, per actual class",
    "Accuracy per class",
    "The most frequent errors",
    "Reliability",
    "Accuracy on parts of the test images",
}


def marks(clone: Clone, *command: str) -> dict[str, int]:
    """How many marks each chart has that a command of DVC draws, by its title."""
    clone.dvc("plots", *command)
    page = clone.read("dvc_plots/index.html").decode()
    found = {}
    for text in re.findall(r"var spec = (\{.*\});$", page, re.MULTILINE):
        spec: dict[str, Any] = json.loads(text)
        chart = vl_convert.vegalite_to_svg(spec, vl_version="5.21")
        title = spec["title"]["text"] if isinstance(spec["title"], dict) else spec["title"]
        found[title] = chart.count('role="graphics-symbol"')
    return found


def test_every_chart_and_picture_of_a_run_and_of_two_compared_is_drawn(
    finished: Clone, tmp_path: Path
) -> None:
    clone = finished.copy(tmp_path)
    shown = marks(clone, "show")
    assert set(shown) == CHARTS
    assert all(count > 0 for count in shown.values()), shown
    page = clone.read("dvc_plots/index.html").decode()
    pictures = {name.split("_")[-1] for name in re.findall(r'<img src="static/([^"]*)"', page)}
    assert pictures == {path.name for path in (clone.folder / "plots").glob("*.png")}
    for path in (clone.folder / "plots").glob("*.csv"):  # as another run would have left it
        path.write_text(path.read_text().replace("0.", "0.1"))
    compared = marks(clone, "diff", "HEAD")
    assert set(compared) == CHARTS
    assert all(count >= shown[title] for title, count in compared.items())
    assert {"HEAD", "workspace"} <= set(
        re.findall(r'"rev": "(\w+)"', clone.read("dvc_plots/index.html").decode())
    )


def run(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` with the `dvc` and the `tools` of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(scratch.ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def shown_page(repository: Path) -> str:
    run(repository, "dvc", "plots", "show")
    return (repository / "dvc_plots/index.html").read_text(encoding="utf-8")


DVC_YAML = """
stages:
  look: {cmd: dvc plots show, deps: [history.csv], outs: [dvc_plots]}
plots:
  - loss: {template: simple, x: epoch, y: {history.csv: [train_loss, val_loss]}}
  - samples.png
"""
HISTORY = "epoch,train_loss,val_loss\n1,2.0,1.9\n2,1.0,1.2\n3,0.5,0.9\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this one's page and plots of its own."""
    folder = tmp_path_factory.mktemp("repository")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    (folder / "tools").mkdir()
    for path in (".dvc/config", ".dvc/.gitignore", "tools/plots_page.html"):
        shutil.copy(scratch.ROOT / path, folder / path)
    (folder / ".gitignore").write_text("/dvc_plots\n")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "history.csv").write_text(HISTORY)
    Image.new("RGB", (64, 48), "navy").save(folder / "samples.png")
    scratch.commit(folder, "plots")
    run(folder, sys.executable, "-m", "tools.plots_page")
    return folder


def test_setting_up_leaves_the_clone_as_git_has_it(repository: Path) -> None:
    assert scratch.git(repository, "status", "--porcelain") == ""


def test_dvc_reads_only_a_cache_that_no_other_user_can_write_to(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    commit = scratch.git(repository, "rev-parse", "HEAD").strip()
    start = Baseline(repository, commit, "", str(repository / ".dvc/cache"))
    (tmp_path / "run").mkdir()
    Experiment("run", [], [], start)._clone(tmp_path / "run")
    for folder in (repository, tmp_path / "run"):  # a sweep runs in clones of its own
        with Repo(str(folder)) as repo:
            assert Path(repo.site_cache_dir).is_relative_to(repository / ".dvc/tmp/site")
    assert (repository / ".dvc/tmp/site").stat().st_mode & 0o777 == 0o700


def test_the_page_knows_no_absolute_path_and_loads_nothing_from_the_network(repository: Path) -> None:
    page = shown_page(repository)
    assert str(repository) not in page
    elsewhere = r"""(src|href)\s*=\s*["']?(https?:)?//|@import|cdn\.|jsdelivr|unpkg"""
    needed_without_setup = re.findall(r'<script[^>]* src="https:[^"]*/npm/([\w-]+)', page)
    assert needed_without_setup == ["vega", "vega-lite", "vega-embed"]
    assert not re.search(elsewhere, re.sub(r"<noscript.*?</noscript>", "", page, flags=re.DOTALL))
    script = (repository / ".dvc/plots/vega.js").read_text(encoding="utf-8")
    assert "Vega-Lite:  Copyright (c)" in script[: script.index("*/")]
    assert not re.search(r"@import|cdn\.|jsdelivr|unpkg", script)


def test_an_experiment_in_a_folder_of_its_own_can_show_its_plots(repository: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(repository), "clone")
    clone = tmp_path / "clone"
    (clone / "history.csv").write_text(HISTORY.replace("0.9", "0.8"))  # what `dvc exp run` takes along
    output = run(clone, "dvc", "exp", "run", "--temp", "--name", "looked").stdout
    assert "dvc_plots/index.html" in output


@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")
def test_a_browser_draws_with_the_script_of_the_clone_or_says_what_it_needs(
    repository: Path, tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "clone")
    running = tmp_path / "clone/.dvc/tmp/exps/standalone/tmp1"  # of `dvc exp run --temp`
    for folder, charts in ((running, 1), (tmp_path / "never set up", 0)):
        run(tmp_path, "git", "clone", "--quiet", str(repository), str(folder))
        shown_page(folder)
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        address = (folder / "dvc_plots/index.html").as_uri()
        browser = run(folder, CHROMIUM, *CHROMIUM_FLAGS, profile, address)
        page = browser.stdout
        lines = re.findall(r'aria-label="[^"]*field: (\w+);[^"]*"[^>]* d="(M[^"]*)"', page)
        drawn = [(field, path.count("L")) for field, path in lines]
        assert drawn == [("train_loss", 2), ("val_loss", 2)] * charts
        assert ("<svg" in page) == bool(charts)
        assert ('<p id="no-charts" hidden="">' in page) == bool(charts)
        pictures = re.findall(r'<img src="(static/[^"]*)"', page)
        assert [(folder / "dvc_plots" / picture).is_file() for picture in pictures] == [True]
        if charts:
            # DVC's charts name version 5 of Vega-Lite and have empty channels.
            known = ("WARN ", "The input spec uses Vega-Lite v5")
            console = re.findall(r'CONSOLE:\d+\] "(.*)", source:', browser.stderr)
            assert not [line for line in console if not line.startswith(known)]
