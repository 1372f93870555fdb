"""Write docs/results.md and the README's first screen from results/*.json.

With --record, first take up the run whose results are in the workspace: its metrics and its log
(logs/train.jsonl, which is not in Git: bring it along when the run was on another machine) become
results/NAME.json and results/NAME.log.jsonl.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network.model import build_model, read_config
from cifar_resnet.process import command
from cifar_resnet.randomness import generator
from tools import ablation, tables
from tools.outcome import read_log, training
from tools.recipes import FOLDER, overlaid, read_recipe, settings, title
from tools.tables import Sweep

RESULTS = Path("results")
DEFAULT, ORIGINAL, QUICK = "default", "original", "quick"
DOCUMENT, README = Path("docs/results.md"), Path("README.md")
# Between these lines of the README.
BLOCK = re.compile(r"(?<=<!-- python -m tools.results -->\n).*(?=<!-- end -->\n)", re.DOTALL)
PUBLISHED = RESULTS / "published.csv"  # what the original recipe reached elsewhere, in % of the test images
SOURCE = "https://www.kaggle.com/code/vmkhoa28/custom-resnet50-with-adamw"
# What all processes of a recorded run have in common.
DECIDING = ["commit", "dirty", "requirements", "torch", "device", "flags", "threads", "precision", "compiled"]
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 -- Markdown, not HTML
)


def read() -> dict[str, Sweep]:
    """Return what the sweeps wrote, by the name of the recipe."""
    paths = sorted(path for path in RESULTS.glob("*.json") if path.name != "verify.json")  # first epochs
    return {path.stem: json.loads(path.read_text()) for path in paths}


def write(name: str, sweep: Sweep, logs: dict[str, list[dict[str, Any]]]) -> None:
    """Write results/NAME.json, and what train noted of each of its runs beside it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(sweep, indent=1) + "\n")
    lines = [json.dumps({"run": run, **line}) for run, log in logs.items() for line in log]
    (RESULTS / f"{name}.log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def original() -> dict[str, Any]:
    """Return the values that all recipes have where they say nothing else."""
    return read_recipe(FOLDER / f"{ORIGINAL}.yaml")


def outdated(sweeps: dict[str, Sweep]) -> dict[str, list[str]]:
    """Return, for each recipe that was changed since it ran, the settings that differ."""
    found = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        if sweep := sweeps.get(title(path)):
            then = set(settings(overlaid(original(), sweep["recipe"])))
            now = set(settings(overlaid(original(), read_recipe(path))))
            if changed := sorted({name for name, _ in then ^ now}):
                found[title(path)] = changed
    return found


def page() -> str:
    """Return docs/results.md."""
    sweeps = read()
    small = ablation.of_ablation(sweeps)
    full = {name: sweep for name, sweep in sweeps.items() if not name.startswith(ablation.PREFIX)}
    found = ablation.samples(small)
    ends = ablation.differences(found)
    learnt = [
        accuracy for sweep in small.values() for accuracy in tables.values(sweep, "train", "train_accuracy")
    ]
    return TEMPLATES.get_template("results.md.jinja").render(
        accuracies=tables.accuracies(full),
        circumstances=tables.circumstances(full),
        ablation=ablation.table(small, ends),
        ablation_circumstances=tables.circumstances(small),
        readings=ablation.readings(found, ends),
        together=found["all"].mean() - found["reference"].mean(),
        deviation=ablation.deviation(found),
        comparisons=len(ends),
        learnt=(min(learnt), max(learnt)),
        outdated=outdated(sweeps),
    )


def network(sweep: Sweep) -> str:
    """Return the name and the size of a recipe's network."""
    config = read_config(overlaid(original(), sweep["recipe"])["train"]["model"])
    model = build_model(config, 10, generator(0, "initialization"))
    count = sum(weight.numel() for weight in model.parameters())
    return f"{model.name}, {count / 1e6:.1f} million parameters"


def row(name: str, sweep: Sweep) -> dict[str, str]:
    """Return the line of a recipe in the README's table."""
    run = next(iter(sweep["runs"].values()))
    sample = tables.values(sweep, "test", "test_accuracy")
    mean = sum(sample) / len(sample)
    interval = tables.over_images(mean, run["data"]["test_images"])
    precision = run["hardware"].get("precision", "").removeprefix("torch.")
    return {
        "recipe": name,
        "network": network(sweep),
        "test accuracy, %": f"**{100 * mean:.2f}** ({interval}), {seeds(len(sample))}",
        "training": f"{run['minutes'] / 60:.1f} hours" if run["minutes"] else "not recorded",
        "hardware": ", ".join(filter(None, [run["hardware"]["processor"], precision])),
        "command": f"`{sweep['command']}`",
    }


def seeds(count: int) -> str:
    """Return a number of seeds in words."""
    return f"{count} seed{'s' * (count > 1)}"


def block() -> str:
    """Return the README's first screen, from results/ and, if there is a default run, metrics/ and plots/."""
    sweeps = read()
    published = pd.read_csv(PUBLISHED).set_index("class")["accuracy"]
    rows = [row(name, sweeps[name]) for name in (DEFAULT, ORIGINAL, QUICK) if name in sweeps]
    elsewhere = dict.fromkeys(rows[0], "not stated") | {
        "recipe": f"original, elsewhere: [notebook]({SOURCE})",
        "network": "ResNet50, 23.5 million parameters",
        "test accuracy, %": f"{published['all']}, {seeds(1)}",
        "command": "",
    }
    rows.insert(DEFAULT in sweeps, elsewhere)
    classes = ""
    if DEFAULT in sweeps:
        ours = 100 * files.read_table("per_class").set_index("class")["accuracy"]
        both = pd.DataFrame({"default": ours, "original, elsewhere": published}).reindex(ours.index)
        lines = [
            {"accuracy, %": str(title)} | {str(name): f"{share:.1f}" for name, share in line.items()}
            for title, line in both.T.iterrows()
        ]
        classes = tables.markdown(lines, right=tuple(ours.index))
    return TEMPLATES.get_template("readme.md.jinja").render(
        table=tables.markdown(rows),
        classes=classes,
        default=next(iter(sweeps[DEFAULT]["runs"].values())) if DEFAULT in sweeps else None,
        duplicates=files.read_metrics("duplicates")["duplicates"],
    )


def record(name: str) -> None:
    """Write results/NAME.json and its log for the run whose results are in the workspace.

    Raises UserError when the log does not hold all epochs of the run, or its processes ran different code.
    """
    log = files.LOGS / "train.jsonl"
    facts, lines = training(read_log(log), files.read_table("history"))
    if not lines:
        raise UserError(
            f"{log} does not hold all epochs of plots/history.csv: bring it from where the run was"
        )
    starts = [line for line in lines if "resumed" in line]
    for fact in DECIDING:
        found = {json.dumps(start.get(fact, "missing")) for start in starts}
        if len(found) > 1 or '"missing"' in found:
            raise UserError(f"{log}: {fact} is {' and '.join(sorted(found))} in the processes of one run")
    recipe = {section: files.read_section(section) for section in ("preprocess", "train", "evaluate")}
    metrics = {stage: files.read_metrics(stage) for stage in ("data", "train", "test")}
    commit = starts[0]["commit"] + "-dirty" * starts[0]["dirty"]
    run = f"{name}-{recipe['train']['seed']}"
    sweep = {"command": "dvc repro", "recipe": recipe, "commit": commit, "runs": {run: {**metrics, **facts}}}
    write(name, sweep, {run: lines})


def main() -> None:
    """Record the run if asked to, and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m tools.results", description=__doc__)
    parser.add_argument("--record", nargs="?", const=DEFAULT, metavar="NAME", help="default: %(const)s")
    arguments = parser.parse_args()
    with command.one_line():
        readme = README.read_text()
        if not BLOCK.search(readme):
            raise UserError(f"{README} lacks the two comments between which the results are")
        if arguments.record:
            record(arguments.record)
        DOCUMENT.write_text(page())
        README.write_text(BLOCK.sub(lambda _: block(), readme))


if __name__ == "__main__":
    main()
