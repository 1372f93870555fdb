"""Put the results into docs/performance.md, between the comments that name them."""

import json
import re

from benchmarks.report import RESULTS, Row, text
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
    """Return one result as a Markdown table under a line about its settings and machine."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        body = "Not measured yet.\n"
    else:
        result = json.loads(path.read_text())
        body = f"{result['settings']}; {machine.line(result['hardware'])}.\n\n{table(result['rows'])}"
    return f"<!-- results: {name} -->\n{body}<!-- end -->"


def table(rows: list[Row]) -> str:
    """Return a Markdown table: text to the left, numbers to the right."""
    heads = [f"| {' | '.join(rows[0])} |", f"|---|{'---:|' * (len(rows[0]) - 1)}"]
    lines = [f"| {' | '.join(text(value).strip() for value in row.values())} |" for row in rows]
    return "\n".join([*heads, *lines]) + "\n"


if __name__ == "__main__":
    write()
