"""What the pages say of this repository is there."""

import re

from tools.scratch import ROOT


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        broken = [link for link in links if not (page.parent / link).exists()]
        assert not broken, page.name
