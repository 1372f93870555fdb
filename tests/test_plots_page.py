"""The page of `dvc plots show` in a scratch DVC repository, and in a real browser without a network."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Clone
from tools import scratch

ROOT = Path(__file__).parents[1]

CHROMIUM = shutil.which("chromium") or ""
CHROMIUM_FLAGS = shlex.split("""
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom
""")
CHARTS = (
    "Loss",
    "Accuracy",
    "Learning rate",
    "Confusion, per actual class",
    "Accuracy per class",
    "Reliability",
)

DVC_YAML = """
plots:
  - loss: {template: simple, x: epoch, y: {history.csv: [train_loss, val_loss]}}
  - confusion.csv: {template: confusion_normalized, x: predicted, y: actual}
  - per_class.csv: {template: bar_horizontal_sorted, x: accuracy, y: class}
  - samples.png
"""
HISTORY = "epoch,train_loss,val_loss\n1,2.0,1.9\n2,1.0,1.2\n3,0.5,0.9\n"
CONFUSION = "actual,predicted\nbird,bird\nbird,bird\nbird,bird\nbird,cat\ncat,cat\nship,ship\n"
PER_CLASS = "class,accuracy\nbird,0.75\ncat,1.0\nship,1.0\n"


def run(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` with the `dvc` and the `tools` of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def shown_page(repository: Path) -> str:
    run(repository, "dvc", "plots", "show")
    return (repository / "dvc_plots" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "history.csv").write_text(HISTORY)
    (folder / "confusion.csv").write_text(CONFUSION)
    (folder / "per_class.csv").write_text(PER_CLASS)
    Image.new("RGB", (64, 48), "navy").save(folder / "samples.png")
    run(folder, "git", "add", ".")
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    run(folder, "git", *author, "commit", "--quiet", "--message", "plots")
    run(folder, sys.executable, "-m", "tools.plots_page")
    return folder


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    run(tmp_path, "git", "clone", "--quiet", str(repository), "clone")
    return tmp_path / "clone"


def test_page_loads_nothing_from_the_network(repository: Path) -> None:
    page = shown_page(repository)
    assert "window.vegaEmbed=" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|cdn\.|jsdelivr|unpkg""", page)


def test_clone_that_was_never_set_up_shows_dvcs_own_page(clone: Path) -> None:
    assert "<title>DVC Plot</title>" in shown_page(clone)


def test_local_config_copied_for_a_temporary_run_finds_the_page(repository: Path, clone: Path) -> None:
    shutil.copy(repository / ".dvc" / "config.local", clone / ".dvc")
    assert "window.vegaEmbed=" in shown_page(clone)


@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")
def test_every_chart_draws_in_a_browser_without_a_network(repository: Path, tmp_path: Path) -> None:
    shown_page(repository)
    page, console = drawn(repository, tmp_path)
    lines = re.findall(r'aria-label="[^"]*field: (\w+);[^"]*"[^>]* d="(M[^"]*)"', page)
    assert [(field, path.count("L")) for field, path in lines] == [("train_loss", 2), ("val_loss", 2)]
    assert "predicted: bird; actual: bird; percent_of_y: 0.75" in page
    bars = re.findall(r'aria-label="accuracy: ([\d.]+); class: (\w+);[^"]*"[^>]* d="M', page)
    assert sorted(bars) == [("0.75", "bird"), ("1", "cat"), ("1", "ship")]
    pictures = re.findall(r'<img src="(static/[^"]*)"', page)
    assert [(repository / "dvc_plots" / picture).is_file() for picture in pictures] == [True]
    assert console == []


@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")
def test_every_chart_of_a_run_and_of_two_compared_draws(finished: Clone, tmp_path: Path) -> None:
    run(finished.folder, sys.executable, "-m", "tools.plots_page")
    shown_page(finished.folder)
    page, console = drawn(finished.folder, tmp_path / "show")
    marks = marks_by_title(page)
    assert set(marks) == set(CHARTS)
    assert all(count > 0 for count in marks.values()), marks
    assert console == []
    pictures = {
        Path(picture).name.split("_")[-1] for picture in re.findall(r'<img src="(static/[^"]*)"', page)
    }
    assert pictures == {path.name for path in (finished.folder / "plots").glob("*.png")}
    try:
        for path in (finished.folder / "plots").glob("*.csv"):  # as another run would have left it
            path.write_text(path.read_text().replace("0.", "0.1"))
        run(finished.folder, "dvc", "plots", "diff", "HEAD")
        page, console = drawn(finished.folder, tmp_path / "diff")
        assert set(marks_by_title(page)) == set(CHARTS)
        assert all(count >= marks[title] for title, count in marks_by_title(page).items())
        assert {"HEAD", "workspace"} <= set(re.findall(r"rev: (\w+)", page))
        assert console == []
    finally:
        scratch.git(finished.folder, "checkout", "--", ".")


def drawn(repository: Path, profile: Path) -> tuple[str, list[str]]:
    """The page as a browser without a network draws it, and what it says on its console."""
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    page = repository / "dvc_plots" / "index.html"
    browser = run(repository, CHROMIUM, *CHROMIUM_FLAGS, *offline, page.as_uri())
    # DVC's charts name version 5 of Vega-Lite and hold empty channels.
    known = ("WARN ", "The input spec uses Vega-Lite v5")
    console = re.findall(r'CONSOLE:\d+\] "(.*)", source:', browser.stderr)
    return browser.stdout, [line for line in console if not line.startswith(known)]


def marks_by_title(page: str) -> dict[str, int]:
    """How many marks each of the charts in a drawn page holds."""
    return {
        title: chart.count('role="graphics-symbol"')
        for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        for title in CHARTS
        if f"Title text '{title}'" in chart
    }
