"""Put the results into docs/performance.md, between the comments that name them."""

import json
import re

import pandas as pd

from benchmarks.report import RESULTS, text
from cifar_resnet import markdown
from cifar_resnet.process import machine

DOCUMENT = RESULTS.parents[1] / "docs" / "performance.md"
BLOCK = re.compile(r"<!-- results: (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def write() -> None:
    """Bring the document up to date with the files in results/."""
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))


def rendered(document: str) -> str:
    """Return the document with every block made from its file again."""
    return BLOCK.sub(lambda match: block(match[1]), document)


def block(name: str) -> str:
    """Return a result, if it was measured: a line about its settings and machine, and a Markdown table."""
    path, body = RESULTS / f"{name}.json", ""
    if path.exists():
        result = json.loads(path.read_text())
        table = pd.DataFrame(result["rows"]).drop(columns=["lowest", "highest"], errors="ignore").map(text)
        lines = f"{result['settings']}; {machine.format_facts(result['hardware'])}."
        body = f"{lines}\n\n{markdown.table(table, right=table.columns[1:])}\n"
    return f"<!-- results: {name} -->\n{body}<!-- end -->"


if __name__ == "__main__":
    write()
