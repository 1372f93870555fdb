"""Each chart and picture of dvc.yaml draws, of one run and of two compared."""

import re
import sys
from pathlib import Path

from tests.browser import NEEDS_BROWSER, drawn, run, shown_page
from tests.conftest import Clone

CHARTS = (
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
)


@NEEDS_BROWSER
def test_every_chart_of_a_run_and_of_two_compared_draws(finished: Clone, tmp_path: Path) -> None:
    clone = finished.copy(tmp_path / "copy")
    run(clone.folder, sys.executable, "-m", "tools.plots_page")
    shown_page(clone.folder)
    page, console = drawn(clone.folder, tmp_path / "show")
    marks = marks_by_title(page)
    assert set(marks) == set(CHARTS)
    assert all(count > 0 for count in marks.values()), marks
    assert console == []
    pictures = {
        Path(picture).name.split("_")[-1] for picture in re.findall(r'<img src="(static/[^"]*)"', page)
    }
    assert pictures == {path.name for path in (clone.folder / "plots").glob("*.png")}
    for path in (clone.folder / "plots").glob("*.csv"):  # as another run would have left it
        path.write_text(path.read_text().replace("0.", "0.1"))
    run(clone.folder, "dvc", "plots", "diff", "HEAD")
    page, console = drawn(clone.folder, tmp_path / "diff")
    assert set(marks_by_title(page)) == set(CHARTS)
    assert all(count >= marks[title] for title, count in marks_by_title(page).items())
    assert {"HEAD", "workspace"} <= set(re.findall(r"rev: (\w+)", page))
    assert console == []


def marks_by_title(page: str) -> dict[str, int]:
    """How many marks each of the charts in a drawn page holds."""
    return {
        title: chart.count('role="graphics-symbol"')
        for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        for title in CHARTS
        if f"Title text '{title}'" in chart
    }
