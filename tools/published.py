"""Write what the run of dvc.lock came to: results/reference.json, docs/results.md, the README's first screen.

For a repository in which `dvc repro` has run. The run's log (logs/train.jsonl) is not in Git: bring it along
when the run was on another machine.
"""

import argparse
import json
import re
from pathlib import Path

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.process import command, machine
from tools import results
from tools.outcome import read_log, training
from tools.scratch import git
from tools.tables import Sweep, markdown

README = Path("README.md")
REFERENCE = results.RESULTS / "reference.json"
TEMPLATE = "published.md.jinja"
# Between these lines of the README.
BLOCK = re.compile(r"(?<=<!-- python -m tools.published -->\n).*(?=<!-- end -->\n)", re.DOTALL)

# What the recipe reached where it was published: one run, in % of the test images.
SOURCE = "https://www.kaggle.com/code/vmkhoa28/custom-resnet50-with-adamw"
THEIRS = {
    "accuracy": 90.92,
    "airplane": 93.1,
    "automobile": 95.3,
    "bird": 84.8,
    "cat": 84.1,
    "deer": 90.3,
    "dog": 84.0,
    "frog": 98.2,
    "horse": 92.2,
    "ship": 94.1,
    "truck": 93.1,
}


def percent(share: float) -> str:
    """Return a fraction in %."""
    return f"{100 * share:.2f}"


def record(commit: str) -> Sweep:
    """Return the run whose results are in the workspace, in the format of tools.sweep.

    `commit`: of the code that ran. Raises UserError when the log does not hold all epochs of the run.
    """
    log = files.LOGS / "train.jsonl"
    run = training(read_log(log), files.read_table("history"))
    if run["hardware"] is None:
        raise UserError(
            f"{log} does not hold all epochs of plots/history.csv: bring it from where the run was"
        )
    found = {stage: files.read_metrics(stage) for stage in ("data", "train", "test")}
    return {"command": "dvc repro", "recipe": {}, "commit": commit, "runs": {"reference-0": {**found, **run}}}


def block(reference: Sweep) -> str:
    """Return the README's account of the run, from `reference` and the workspace's metrics and plots."""
    (run,) = reference["runs"].values()
    accuracies = files.read_table("per_class").set_index("class")["accuracy"]
    rows: list[dict[str, str]] = [
        {"accuracy, %": "here", "all": percent(run["test"]["test_accuracy"])},
        {"accuracy, %": "published before", "all": str(THEIRS["accuracy"])},
    ]
    for name, accuracy in accuracies.items():
        rows[0][str(name)] = f"{100 * accuracy:.1f}"
        rows[1][str(name)] = str(THEIRS.get(str(name), ""))
    return results.TEMPLATES.get_template(TEMPLATE).render(
        run=run,
        train=run["train"],
        test=run["test"],
        seed=files.read_section("train")["seed"],
        hardware=machine.line(run["hardware"]),
        precision=run["hardware"]["precision"].removeprefix("torch."),
        classes=markdown(rows, right=tuple(rows[0])[1:]),
        duplicates=files.read_metrics("duplicates")["duplicates"],
        source=SOURCE,
        theirs=THEIRS,
        percent=percent,
    )


def main() -> None:
    """Write all three."""
    parser = argparse.ArgumentParser(prog="python -m tools.published", description=__doc__)
    parser.add_argument("--commit", help="of the code that ran (default: HEAD)")
    commit = parser.parse_args().commit or git(Path(), "rev-parse", "HEAD").strip()
    with command.one_line():
        reference = record(commit)
        text, found = BLOCK.subn(lambda _: block(reference), README.read_text())
        if not found:
            raise UserError(f"{README} lacks the two comments between which the run is described")
        README.write_text(text)
        REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")
        results.DOCUMENT.write_text(results.page())


if __name__ == "__main__":
    main()
