"""Run the six stages on made-up data in the scratch clone .demo, and show what came out."""

import json
import subprocess
import sys
from typing import Any

import pandas as pd

from tools import plots_page, recipes, scratch

DEMO = scratch.ROOT / ".demo"
NEXT = """
Every file of this run is in .demo, a clone of its own: nothing else was touched. Try there:

  source .venv/bin/activate && cd .demo
  dvc exp run -S train.optimizer.lr=0.001      # change a number and run what depends on it
  dvc params diff; dvc metrics diff            # compare the two runs
  dvc exp show                                 # all runs in one table
  dvc repro                                    # nothing changed, so nothing runs

The plots page, readable offline: {page}
"""


def main() -> None:
    """Clone, run, show."""
    scratch.clone(DEMO, recipes.read_recipe(scratch.ROOT / "recipes/demo.yaml"))
    plots_page.install(DEMO / ".dvc")
    dvc("repro")
    scratch.commit(DEMO, "Results of the demo")
    results: dict[str, Any] = {}
    for stage in ("train", "test"):
        results |= json.loads((DEMO / f"metrics/{stage}.json").read_text())
    print(f"\nThe kept epoch is {results['best_epoch']} of {results['epochs']}:\n")
    splits = {"train": "train", "validation": "val", "test": "test"}
    shown = pd.DataFrame(
        {
            title: {
                "accuracy": f"{results[f'{split}_accuracy']:.2%}",
                "loss": f"{results[f'{split}_loss']:.4f}",
            }
            for title, split in splits.items()
        }
    )
    print(shown.to_string())
    dvc("plots", "show", "--quiet")
    print(NEXT.format(page=DEMO / "dvc_plots/index.html"))


def dvc(*arguments: str) -> None:
    """Run DVC in the demo; it shows its own errors."""
    status = subprocess.run(["dvc", *arguments], cwd=DEMO).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
