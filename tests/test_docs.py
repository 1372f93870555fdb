"""What the pages say of this repository is there."""

import functools
import json
import re
from typing import Any

from tools.scratch import ROOT


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken, page.name


def value(document: Any, key: str) -> float:
    """The number under a key with dots."""
    names = key.split(".")
    return float(
        functools.reduce(
            lambda part, name: part[int(name) if isinstance(part, list) else name], names, document
        )
    )


def test_each_figure_of_the_claims_is_that_of_its_file_and_each_command_can_be_run() -> None:
    lines = (ROOT / "docs/claims.md").read_text().split("\n|---")[1].split("\n\n")[0].splitlines()[1:]
    assert 6 <= len(lines) <= 8
    figures = 0
    for line in lines:
        _, figure, command, minutes, *_ = [cell.strip() for cell in line.split("|")[1:]]
        for path in re.findall(r"(?:tests|recipes)/[\w/.]+", command):
            assert (ROOT / path).exists()
        assert float(minutes.split()[0]) > 0
        if figure:
            stated, path, key = re.fullmatch(r"([\d.]+)[^`]*`(.*)`: `(.*)`", figure).groups()  # type: ignore[union-attr]
            measured = value(json.loads((ROOT / path).read_text()), key) * (100 if "%" in figure else 1)
            digits = len(stated.partition(".")[2])
            assert stated == f"{measured:.{digits}f}", line
            figures += 1
    assert figures >= 3
