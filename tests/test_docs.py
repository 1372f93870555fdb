"""What the pages say of this repository is there."""

import re

from tools.scratch import ROOT


def test_every_test_file_that_a_page_names_exists() -> None:
    there = {path.name for path in (ROOT / "tests").rglob("*.py")}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"\btest_\w+\.py", page.read_text())}
    assert len(named) > 10
    assert named <= there


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken, page.name
