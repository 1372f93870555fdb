"""Run the six stages on made-up data in the scratch clone .demo, and show what came out."""

import json
import subprocess
import sys

from ruamel.yaml import YAML

from tools import plots_page, scratch

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
    scratch.clone(DEMO, YAML(typ="safe").load(scratch.ROOT / "recipes/demo.yaml"))
    plots_page.install(DEMO / ".dvc")
    dvc("repro")
    scratch.commit(DEMO, "Results of the demo")
    train, test = (json.loads((DEMO / f"metrics/{name}.json").read_text()) for name in ("train", "test"))
    print(f"\nThe kept epoch is {train['best_epoch']} of {train['epochs']}:\n")
    print(f"{'':10}{'train':>12}{'validation':>12}{'test':>12}")
    print(
        f"{'accuracy':10}{train['train_accuracy']:12.2%}{train['val_accuracy']:12.2%}{test['accuracy']:12.2%}"
    )
    print(f"{'loss':10}{train['train_loss']:12.4f}{train['val_loss']:12.4f}{test['loss']:12.4f}")
    dvc("plots", "show", "--quiet")
    print(NEXT.format(page=DEMO / "dvc_plots/index.html"))


def dvc(*arguments: str) -> None:
    """Run DVC in the demo; it shows its own errors."""
    status = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=DEMO).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
