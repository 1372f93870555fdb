"""What sweeps of recipes came to: docs/results.md, made whole from results/*.json and results.md.jinja."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tools import ablation, estimate, tables
from tools.recipes import FOLDER, read_recipe, settings, title
from tools.tables import Sweep

RESULTS = Path("results")
DOCUMENT = Path("docs/results.md")
TEMPLATE = "results.md.jinja"
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 -- Markdown, not HTML
)


def read() -> dict[str, Sweep]:
    """Return what the sweeps wrote, by the name of the recipe."""
    paths = sorted(path for path in RESULTS.glob("*.json") if path.name != "verify.json")  # first epochs
    return {path.stem: json.loads(path.read_text()) for path in paths}


def outdated(sweeps: dict[str, Sweep]) -> dict[str, list[str]]:
    """Return, for each recipe that was changed since it ran, the settings that differ."""
    found = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        if sweep := sweeps.get(title(path)):
            then, now = set(settings(sweep["recipe"])), set(settings(read_recipe(path)))
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
    return TEMPLATES.get_template(TEMPLATE).render(
        accuracies=tables.accuracies(full),
        circumstances=tables.circumstances(full),
        unmeasured=tables.unmeasured(set(sweeps)),
        ablation=ablation.table(small, ends),
        ablation_circumstances=tables.circumstances(small),
        readings=ablation.readings(found, ends),
        together=found["all"].mean() - found["reference"].mean(),
        deviation=ablation.deviation(found),
        comparisons=len(ends),
        learnt=(min(learnt), max(learnt)),
        outdated=outdated(sweeps),
        cpu_images=estimate.cpu_images(),
        gpu_images=estimate.GPU_IMAGES,
    )


if __name__ == "__main__":
    DOCUMENT.write_text(page())
