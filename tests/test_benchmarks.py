"""The page of measurements is what the measurements say."""

import re

from benchmarks import tables
from benchmarks.report import RESULTS


def test_the_performance_page_is_made_of_the_results() -> None:
    document = tables.DOCUMENT.read_text()
    assert tables.rendered(document) == document, "run `python -m benchmarks.tables`"


def test_every_result_is_on_the_page() -> None:
    named = set(re.findall(r"<!-- results: (\S+) -->", tables.DOCUMENT.read_text()))
    assert {path.stem for path in RESULTS.glob("*.json")} <= named
