"""Write docs/results.md and the README's first screen from results/*.json.

With --record, the run in the workspace becomes results/NAME.json and results/NAME.log.jsonl first. Its log,
logs/train.jsonl, is not in Git: bring the log along when the run was on another machine.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import StrictUndefined, Template
from scipy import stats

from cifar_resnet import files, markdown, params
from cifar_resnet.errors import UserError
from cifar_resnet.evaluation.metrics import accuracy_interval
from cifar_resnet.network.model import build_model, read_config
from cifar_resnet.process import command, machine
from cifar_resnet.randomness import generator
from tools.outcome import read_log, training
from tools.recipes import FOLDER, read_recipe, recipe_name
from tools.scratch import merge

Sweep = dict[str, Any]  # what tools.sweep writes: command, recipe, commit, and runs by name
RESULTS, DOCUMENT, README = Path("results"), Path("docs/results.md"), Path("README.md")
DEFAULT, ORIGINAL = "default", "original"
SHOWN = (DEFAULT, ORIGINAL, "quick", "coffee")  # in the README
BLOCK = re.compile(r"(?<=tools/readme.md.jinja -->\n).*(?=<!-- end -->\n)", re.DOTALL)
PUBLISHED = RESULTS / "published.csv"  # what the original recipe reached elsewhere, in % of the test images


def read() -> dict[str, Sweep]:
    """Return what the sweeps wrote, by the name of the recipe."""
    paths = sorted(path for path in RESULTS.glob("*.json") if path.name != "verify.json")  # first epochs
    return {path.stem: files.read_json(path) for path in paths}


def write(name: str, sweep: Sweep, logs: dict[str, list[dict[str, Any]]]) -> None:
    """Write results/NAME.json, and what train noted of each of its runs beside it."""
    lines = [json.dumps({"run": run, **line}) for run, log in logs.items() for line in log]
    files.write_bytes(RESULTS / f"{name}.json", (json.dumps(sweep, indent=1) + "\n").encode())
    files.write_bytes(RESULTS / f"{name}.log.jsonl", "".join(f"{line}\n" for line in lines).encode())


def whole(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe with those that it takes from the original one."""
    return merge(read_recipe(FOLDER / f"{ORIGINAL}.yaml"), recipe)


def over_images(mean: float, count: float) -> str:
    """Return the 95 % interval (Wilson), in %, of an accuracy on `count` images."""
    low, high = accuracy_interval(mean, int(count))
    return f"{100 * low:.2f} to {100 * high:.2f}"


def over_seeds(sample: "pd.Series[float]") -> str:
    """Return the 95 % interval (Student), in %, of the mean of accuracies, and their standard deviation."""
    if len(sample) < 2:
        return "one seed"
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=sample.mean(), scale=stats.sem(sample))
    return f"{100 * low:.2f} to {100 * high:.2f} (standard deviation {100 * sample.std():.2f})"


def table(sweeps: dict[str, Sweep]) -> str:
    """Return a Markdown table with a line for each recipe: accuracies in %, minutes of a run."""
    now = {recipe_name(path): path for path in FOLDER.rglob("*.yaml")}
    rows = []
    for name, sweep in sweeps.items():
        runs = pd.json_normalize(list(sweep["runs"].values()))
        val, test = (runs.get(f"{of}_accuracy", runs[:0]["minutes"]) for of in ("train.val", "test.test"))
        sample, images = (test, "test") if len(test) else (val, "val")
        ran_on = {machine.format_facts(run["hardware"]) for run in sweep["runs"].values() if run["hardware"]}
        changed = name in now and whole(sweep["recipe"]) != whole(read_recipe(now[name]))
        rows.append(
            {
                "recipe": name,
                "seeds": len(runs),
                "validation": f"{100 * val.mean():.2f}",
                "test": f"{100 * test.mean():.2f}" if len(test) else "",
                "over images": over_images(sample.mean(), runs[f"data.{images}_images"][0]),
                "over seeds": over_seeds(sample),
                "minutes": f"{runs['minutes'].astype(float).mean():.3g}".replace("nan", "not known"),
                "hardware": "; ".join(sorted(ran_on)) or "not known",
                "commit": sweep["commit"][:7] + sweep["commit"][40:] + "*" * changed,
            }
        )
    return markdown.table(pd.DataFrame(rows), right=("seeds", "validation", "test"))


def render(name: str, **values: Any) -> str:
    """Return the template tools/NAME.md.jinja with `values`."""
    form: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    text = Path(__file__).with_name(f"{name}.md.jinja").read_text()
    return str(Template(text, undefined=StrictUndefined, **form).render(values))


def page() -> str:
    """Return docs/results.md."""
    sweeps, ours = read(), 100 * files.read_table("per_class").set_index("class")["accuracy"]
    published = pd.read_csv(PUBLISHED).set_index("class")["accuracy"]
    both = pd.DataFrame({"default": ours, "original, elsewhere": published}).reindex(ours.index)
    classes = markdown.table(both.map("{:.1f}".format).reset_index(), right=both.columns)
    return render("results", table=table(sweeps), sweeps=sweeps, classes=classes)


def summary(sweep: Sweep) -> dict[str, Any]:
    """Return what the README says of a recipe: its network, accuracy, first run and command."""
    runs = pd.json_normalize(list(sweep["runs"].values()))
    config = read_config(whole(sweep["recipe"])["train"]["model"])
    model, mean = build_model(config, 10, generator(0, "initialization")), runs["test.test_accuracy"].mean()
    return sweep | {
        "network": model.name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "accuracy": mean,
        "interval": over_images(mean, runs["data.test_images"][0]),
    }


def block() -> str:
    """Return the README's first screen, from results/ and metrics/duplicates.json."""
    recipes = {
        name: summary(sweep)
        for name, sweep in read().items()
        if name in SHOWN and all("test" in run for run in sweep["runs"].values())
    }
    published = pd.read_csv(PUBLISHED).set_index("class")["accuracy"]["all"]
    duplicates = files.read_metrics("duplicates")["duplicates"]
    return render("readme", recipes=recipes, published=published, duplicates=duplicates)


def record(name: str) -> None:
    """Write results/NAME.json and its log for the run whose results are in the workspace.

    Raises UserError when the log does not hold all epochs of the run, or lacks the commit of a process.
    """
    log = files.LOGS / "train.jsonl"
    facts, lines = training(read_log(log), files.read_table("history"))
    if not lines:
        raise UserError(f"{log} does not hold all epochs of plots/history.csv: bring that run's log")
    starts = [line for line in lines if "resumed" in line]
    if not all(start.get("commit") for start in starts):
        raise UserError(f"{log} lacks the commit of a process: only a run in a Git clone can be recorded")
    recipe = {section: params.read_section(section) for section in ("preprocess", "train", "evaluate")}
    metrics = {stage: files.read_metrics(stage) for stage in ("data", "train", "test")}
    commit = starts[-1]["commit"] + "-dirty" * any(start["dirty"] for start in starts)
    run = f"{name}-{recipe['train']['seed']}"
    sweep = {"command": "dvc repro", "recipe": recipe, "commit": commit, "runs": {run: {**metrics, **facts}}}
    write(name, sweep, {run: lines})


def main() -> None:
    """Record the run if asked to, and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m tools.results", description=__doc__)
    parser.add_argument("--record", nargs="?", const=DEFAULT, metavar="NAME", help="default: %(const)s")
    name = parser.parse_args().record
    with command.one_line():
        readme = README.read_text()
        if not BLOCK.search(readme):
            raise UserError(f"{README} lacks the two comments between which the results are")
        if name:
            record(name)
        DOCUMENT.write_text(page())
        README.write_text(BLOCK.sub(lambda _: block(), readme))


if __name__ == "__main__":
    main()
