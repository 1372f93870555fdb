"""The page of `dvc plots show`, in clones and in a real browser without a network."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from PIL import Image

from tests.browser import NEEDS_BROWSER, drawn, run, shown_page
from tools import scratch
from tools.experiment import Baseline, Experiment

pytestmark = pytest.mark.slow
PAGE = (".dvc/config", ".dvc/.gitignore", "tools/plots_page.html")  # what git has of it

DVC_YAML = """
stages:
  look: {cmd: dvc plots show, deps: [history.csv], outs: [dvc_plots]}
plots:
  - loss: {template: simple, x: epoch, y: {history.csv: [train_loss, val_loss]}}
  - confusion.csv: {template: confusion_normalized, x: predicted, y: actual}
  - per_class.csv: {template: bar_horizontal_sorted, x: accuracy, y: class}
  - samples.png
"""
HISTORY = "epoch,train_loss,val_loss\n1,2.0,1.9\n2,1.0,1.2\n3,0.5,0.9\n"
CONFUSION = "actual,predicted\nbird,bird\nbird,bird\nbird,bird\nbird,cat\ncat,cat\nship,ship\n"
PER_CLASS = "class,accuracy\nbird,0.75\ncat,1.0\nship,1.0\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this one's page and plots of its own."""
    folder = tmp_path_factory.mktemp("repository")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    (folder / "tools").mkdir()
    for path in PAGE:
        shutil.copy(scratch.ROOT / path, folder / path)
    (folder / ".gitignore").write_text("/dvc_plots\n")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "history.csv").write_text(HISTORY)
    (folder / "confusion.csv").write_text(CONFUSION)
    (folder / "per_class.csv").write_text(PER_CLASS)
    Image.new("RGB", (64, 48), "navy").save(folder / "samples.png")
    scratch.commit(folder, "plots")
    run(folder, sys.executable, "-m", "tools.plots_page")
    return folder


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A clone that was never set up."""
    run(tmp_path, "git", "clone", "--quiet", str(repository), "clone")
    return tmp_path / "clone"


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


def test_the_page_knows_no_absolute_path_and_names_the_network_only_where_browsers_do_not_look(
    repository: Path,
) -> None:
    page = shown_page(repository)
    assert str(repository) not in page
    elsewhere = r"""(src|href)\s*=\s*["']?(https?:)?//|@import|cdn\.|jsdelivr|unpkg"""
    assert re.search(elsewhere, page)
    assert not re.search(elsewhere, re.sub(r"<noscript.*?</noscript>", "", page, flags=re.DOTALL))


def test_the_script_holds_the_licences_and_loads_nothing_from_the_network(repository: Path) -> None:
    script = (repository / ".dvc/plots/vega.js").read_text(encoding="utf-8")
    assert "Vega-Lite:  Copyright (c)" in script[: script.index("*/")]
    assert "THIS SOFTWARE IS PROVIDED" in script[: script.index("*/")]
    assert not re.search(r"@import|cdn\.|jsdelivr|unpkg", script)


def test_an_experiment_in_a_folder_of_its_own_can_show_its_plots(clone: Path) -> None:
    (clone / "history.csv").write_text(HISTORY.replace("0.9", "0.8"))  # what `dvc exp run` takes along
    output = run(clone, "dvc", "exp", "run", "--temp", "--name", "looked").stdout
    assert "dvc_plots/index.html" in output
    assert "looked" in run(clone, "dvc", "exp", "list", "--name-only").stdout


def draws_all(folder: Path, profile: Path) -> None:
    """Check that a browser without a network draws the charts of `repository` in this copy of it."""
    shown_page(folder)
    page, console = drawn(folder, profile)
    lines = re.findall(r'aria-label="[^"]*field: (\w+);[^"]*"[^>]* d="(M[^"]*)"', page)
    assert [(field, path.count("L")) for field, path in lines] == [("train_loss", 2), ("val_loss", 2)]
    assert "predicted: bird; actual: bird; percent_of_y: 0.75" in page
    bars = re.findall(r'aria-label="accuracy: ([\d.]+); class: (\w+);[^"]*"[^>]* d="M', page)
    assert sorted(bars) == [("0.75", "bird"), ("1", "cat"), ("1", "ship")]
    pictures = re.findall(r'<img src="(static/[^"]*)"', page)
    assert [(folder / "dvc_plots" / picture).is_file() for picture in pictures] == [True]
    assert console == []
    assert '<p id="no-charts" hidden="">' in page


@NEEDS_BROWSER
def test_a_running_experiment_draws_with_the_script_of_its_clone(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "clone")
    inside = tmp_path / "clone/.dvc/tmp/exps/standalone/tmp1"  # of `dvc exp run --temp`
    run(tmp_path, "git", "clone", "--quiet", str(repository), str(inside))
    draws_all(inside, tmp_path / "profile")


@NEEDS_BROWSER
def test_a_clone_that_was_never_set_up_says_what_its_charts_need(clone: Path, tmp_path: Path) -> None:
    shown_page(clone)
    page, _ = drawn(clone, tmp_path / "profile")
    assert '<p id="no-charts">The charts need a network' in page
    tried = re.sub(r"<noscript.*?</noscript>", "", page, flags=re.DOTALL)
    scripts = re.findall(r'<script[^>]* src="https:[^"]*/npm/([\w-]+)', tried)
    assert scripts == ["vega", "vega-lite", "vega-embed"]
    assert "<svg" not in page
