"""One Markdown table."""

from collections.abc import Collection

import pandas as pd

ESCAPES = str.maketrans({"|": r"\|", "<": "&lt;", "\n": " "})


def table(rows: pd.DataFrame, right: Collection[str] = ()) -> str:
    """Return `rows` as a GitHub table. `right`: columns aligned to the right. Cells are text of any kind."""
    lines = [list(map(str, rows.columns)), ["---:" if name in right else "---" for name in rows.columns]]
    lines += [[str(cell).translate(ESCAPES) for cell in row] for row in rows.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
