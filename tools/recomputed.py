"""The figures of a run, computed again from its raw rows: what no longer follows from them is named."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cifar_resnet import files, params
from cifar_resnet.errors import UserError
from cifar_resnet.evaluation import metrics, subsets
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.state import new_state, summary
from tools import first_steps, lock, results
from tools.outcome import read_log, training

DIGITS = 1e-9  # relative: what reading a CSV may change
ROUNDED = 2e-6  # less than one test image; plots/predictions.csv has six digits
Made = dict[str, Any]  # what a file has to say, by its path: the rows of a CSV, an object of JSON, a text


def check_figures() -> lock.Findings:
    """Compute metrics, tables, record and pages again, and compare them with the files that are here."""
    sources = {
        "plots/predictions.csv": of_predictions,
        "plots/history.csv": of_history,
        "metrics/": of_metrics,
    }
    for source, make in sources.items():
        for name, rows in make().items():
            path = Path(name)
            if path.suffix == ".csv":
                stated = files.read_csv(path)
            else:  # in JSON, NaN becomes a text
                text, rows = path.read_text(), pd.DataFrame([rows])
                said = json.loads(text, parse_constant=str) if path.suffix == ".json" else [text]
                stated = pd.DataFrame([said])
            try:
                pd.testing.assert_frame_equal(
                    stated.dropna(), rows, check_dtype=False, check_like=True, rtol=DIGITS, atol=ROUNDED
                )  # NaN equals nothing
            except AssertionError as error:
                remedy, problem = f"git diff HEAD {name}", f": {str(error).splitlines()[0]}"
                if path.suffix == ".md":
                    remedy, problem = "python -m tools.results", ""  # pandas would only say that texts differ
                yield "FAIL", f"{name} does not follow from {source}{problem}: `{remedy}`"
    for path, tool in ((first_steps.RUN, "results"), (first_steps.EPOCH, "verify")):
        if not path.exists():
            yield "----", f"{path} is missing: `python -m tools.{tool} --record` on the machine of the run"
    count = len(files.read_table("predictions"))
    yield "PASS", f"computed again from {count:,} predictions: the same metrics, tables and pages"


def of_predictions() -> Made:
    """Return metrics/test.json and its tables. Raises UserError unless each test image has one row."""
    table = files.read_table("predictions").sort_values("index")
    names, count = files.read_table("per_class")["class"].to_list(), files.read_metrics("data")["test_images"]
    answers = table[["label", "prediction"]].apply(pd.Index(names).get_indexer).to_numpy()
    if table["index"].to_list() != list(range(count)) or answers.min() < 0:
        problem = f"does not have each of the {count} test images once, with one of the classes"
        raise UserError(f"plots/predictions.csv {problem}: `git diff HEAD plots`")
    actual, predicted = torch.tensor(answers).T
    shares = torch.zeros(count, len(names), dtype=torch.float64)
    shares[torch.arange(count), predicted] = torch.tensor(table["confidence"].to_numpy())
    matrix, known = metrics.confusion_matrix(predicted, actual, len(names)), files.DUPLICATES.exists()
    found = files.read_csv(files.DUPLICATES)["test_index"] if known else pd.Series([0])
    excluded = subsets.excluded_indices(params.read_section("fetch")["dataset"], found)
    parts = subsets.accuracies(predicted == actual, excluded).set_index("images_left")
    if not known:  # then this row cannot be computed
        stated = files.read_table("subsets").set_index("images_left")
        parts.loc[subsets.NEAR_DUPLICATES] = stated.reindex(parts.index).loc[subsets.NEAR_DUPLICATES]
    test = metrics.evaluate(shares, actual) | {
        "test_loss": table["loss"].mean(),
        "test_ece": metrics.calibration_error(shares, actual),
        "test_deduplicated": parts["accuracy"].get(subsets.NEAR_DUPLICATES, 0.0),
    }
    if params.read("evaluate", metrics.EvaluateConfig).flip:  # which the weights give: --full
        test["test_accuracy_with_flip"] = files.read_metrics("test").get("test_accuracy_with_flip")
    return {
        "metrics/test.json": test,
        "plots/per_class.csv": metrics.per_class(matrix, names),
        "plots/confusions.csv": metrics.confusions(matrix, names),
        "plots/reliability.csv": metrics.reliability(shares, actual),
        "plots/subsets.csv": parts.reset_index(),
    }


def of_history() -> Made:
    """Return metrics/train.json, the record of the run, and the totals of its first steps."""
    history, config = files.read_table("history"), params.read("train", TrainConfig)
    state = new_state(config, 1, torch.device("cpu"))
    state.history = [{str(name): row[name] for name in row} for row in history.to_dict("records")]
    state.epoch = len(history)
    made: Made = {"metrics/train.json": summary(state, config)}
    if first_steps.EPOCH.exists():
        with files.readable(first_steps.EPOCH):
            totals = pd.read_csv(first_steps.EPOCH).astype(float)
        step, first = totals["step"].iloc[-1], history.iloc[0]
        images = step * config.batch_size
        totals.iloc[-1] = [step, first["train_loss"] * step, first["train_accuracy"] * images]
        made[str(first_steps.EPOCH)] = totals
    if sweep := first_steps.published():
        name, run = next(iter(sweep["runs"].items()))
        log = read_log(first_steps.RUN.with_suffix(".log.jsonl"))
        facts, lines = training([line for line in log if line.pop("run") == name], history)
        facts |= {stage: files.read_metrics(stage) for stage in ("data", "train", "test")}
        recipe = {section: params.read_section(section) for section in sweep["recipe"]}
        made[str(first_steps.RUN)] = sweep | {"recipe": recipe, "runs": {name: lines and run | facts}}
    return made


def of_metrics() -> Made:
    """Return the pages, and what data/duplicates.csv says if it is here."""
    page, count = results.BLOCK.subn(lambda _: results.block(), results.README.read_text())
    made: Made = {str(results.README): [page * count], str(results.DOCUMENT): [results.page()]}
    if files.DUPLICATES.exists():
        found = {"duplicates": len(files.read_csv(files.DUPLICATES))}
        made["metrics/duplicates.json"] = files.read_metrics("duplicates") | found
    return made
