"""Run the six stages on made-up data in the scratch clone .demo, and show what came out."""

import json
import subprocess
import sys

import pandas as pd

from cifar_resnet.process import command
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
    train, test = (json.loads((DEMO / f"metrics/{name}.json").read_text()) for name in ("train", "test"))
    found, names = train | test, {"train": "train", "validation": "val", "test": "test"}
    print(f"\nThe kept epoch is {found['best_epoch']} of {found['epochs']}:\n")
    accuracy = [f"{found[f'{split}_accuracy']:.2%}" for split in names.values()]
    loss = [f"{found[f'{split}_loss']:.4f}" for split in names.values()]
    print(pd.DataFrame([accuracy, loss], index=["accuracy", "loss"], columns=list(names)).to_string())
    dvc("plots", "show", "--quiet")
    print(NEXT.format(page=DEMO / "dvc_plots/index.html"))


def dvc(*arguments: str) -> None:
    """Run DVC in the demo; it shows its own errors."""
    if status := subprocess.run(["dvc", *arguments], cwd=DEMO).returncode:
        sys.exit(status)


if __name__ == "__main__":
    with command.one_line():
        main()
