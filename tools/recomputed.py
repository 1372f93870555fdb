"""The figures of a run, computed again from its raw rows: what no longer follows from them is named."""

import json

import numpy as np
import pandas as pd
import torch

from cifar_resnet import files
from cifar_resnet.evaluation import metrics, subsets
from cifar_resnet.training.config import TrainConfig
from tools import first_steps, results
from tools.outcome import training

DIGITS = 1e-9  # relative: what reading a CSV may change
ROUNDED = 2e-6  # means of columns that plots/predictions.csv has with six digits


def check_evaluation() -> list[str]:
    """Return what of metrics/test.json and of its tables does not follow from plots/predictions.csv."""
    table, test = files.read_table("predictions"), files.read_metrics("test")
    names = files.read_table("per_class")["class"].to_list()
    count = files.read_metrics("data")["test_images"]
    known = table["label"].isin(names).all() and table["prediction"].isin(names).all()
    if not known or sorted(table["index"]) != list(range(count)):
        return [
            f"plots/predictions.csv does not have each of the {count} test images once: `git diff HEAD plots`"
        ]
    actual, predicted = (
        torch.tensor(table[column].map(names.index).to_list()) for column in ("label", "prediction")
    )
    confidence = torch.tensor(table["confidence"].to_numpy())
    probabilities = torch.zeros(count, len(names), dtype=torch.float64)
    probabilities.scatter_(1, predicted.unsqueeze(1), confidence.unsqueeze(1))
    hits = predicted == actual
    share, matrix = float(hits.double().mean()), metrics.confusion_matrix(predicted, actual, len(names))
    low, high = metrics.accuracy_interval(share, count)
    ours = {
        "test_accuracy": share,
        "test_ci_low": low,
        "test_ci_high": high,
        "test_f1": metrics.macro_f1(matrix),
    }
    means = {
        "test_loss": float(table["loss"].mean()),
        "test_ece": metrics.calibration_error(probabilities, actual),
    }
    wrong = [f"metrics/test.json: {name}" for name, value in ours.items() if not _near(test[name], value)]
    parts = files.read_table("subsets").set_index("images_left")["accuracy"]
    names_of_all = {*ours, *means, "test_deduplicated"}
    if files.read_params("evaluate", metrics.EvaluateConfig).flip:
        names_of_all.add("test_accuracy_with_flip")  # which the weights give: --full
    if test.keys() != names_of_all or not _near(test["test_deduplicated"], parts[subsets.OURS]):
        wrong.append("metrics/test.json: its names, or test_deduplicated")
    wrong += [
        f"metrics/test.json: {name}" for name, mean in means.items() if not abs(test[name] - mean) <= ROUNDED
    ]
    tables = {
        "per_class": (metrics.per_class(matrix, names), 0.0),
        "confusions": (metrics.confusions(matrix, names), 0.0),
        "reliability": (metrics.reliability(probabilities, actual), ROUNDED),
        "subsets": (_subsets(hits[torch.tensor(table["index"].argsort().to_numpy())]), 0.0),
    }
    for name, (computed, tolerance) in tables.items():
        stated = files.read_table(name)
        if name == "subsets" and not files.DUPLICATES.exists():  # then one of them cannot be computed
            stated = stated[stated["images_left"] != subsets.OURS].reset_index(drop=True)
        if not _same(computed, stated, tolerance):
            wrong.append(f"plots/{name}.csv")
    return [
        f"{line} does not follow from plots/predictions.csv: `git diff HEAD metrics plots`" for line in wrong
    ]


def _subsets(hits: torch.Tensor) -> pd.DataFrame:
    """The accuracies on parts of the test images. `hits`: (N,) bool in the order of the images."""
    there = files.DUPLICATES.exists()
    found = files.read_duplicates()["test_index"] if there else pd.Series([0])
    table = subsets.accuracies(hits, subsets.exclusions(files.read_section("fetch")["dataset"], found))
    return table if there else table[table["images_left"] != subsets.OURS].reset_index(drop=True)


def check_training() -> list[str]:
    """Return what of metrics/train.json, the run's log and its first steps is not plots/history.csv's."""
    history, train = files.read_table("history"), files.read_metrics("train")
    config, wrong = files.read_params("train", TrainConfig), []
    kept = history.iloc[-1] if config.all_images else history.iloc[int(history["val_accuracy"].argmax())]
    same = [_near(train[name], kept[name]) for name in kept.index if name in train]
    if not all(same) or train["best_epoch"] != kept["epoch"] or train["epochs"] != len(history):
        wrong.append("metrics/train.json")
    if first_steps.EPOCH.exists():
        last = pd.read_csv(first_steps.EPOCH).iloc[-1]
        loss, right = last["loss_sum"] / last["step"], last["correct"] / (last["step"] * config.batch_size)
        if not (_near(history["train_loss"][0], loss) and _near(history["train_accuracy"][0], right)):
            wrong.append(str(first_steps.EPOCH))
    if first_steps.RUN.exists():
        record = json.loads(first_steps.RUN.read_text())
        (name, run), *others = record["runs"].items()
        if others or any(record["recipe"][part] != files.read_section(part) for part in record["recipe"]):
            wrong.append(f"{first_steps.RUN}: more than one run, or another recipe: it")
        lines = [
            json.loads(line) for line in first_steps.RUN.with_suffix(".log.jsonl").read_text().splitlines()
        ]
        facts, found = training([line for line in lines if line.pop("run") == name], history)
        if not found or any(run[fact] != value for fact, value in facts.items()):
            wrong.append(f"the log of {first_steps.RUN}")
    return [f"{line} does not follow from plots/history.csv: `git diff HEAD`" for line in wrong]


def check_pages() -> list[str]:
    """Return which record and which page does not say what metrics/, plots/ and results/ say."""
    wrong = []
    if first_steps.RUN.exists():
        run = next(iter(json.loads(first_steps.RUN.read_text())["runs"].values()))
        wrong += [
            f"{first_steps.RUN}: {name}"
            for name in ("data", "train", "test")
            if run[name] != files.read_metrics(name)
        ]
    count = files.read_metrics("duplicates")["duplicates"]
    if files.DUPLICATES.exists() and len(files.read_duplicates()) != count:
        wrong.append("metrics/duplicates.json")
    readme = results.BLOCK.search(results.README.read_text())
    if not readme or readme.group() != results.block():
        wrong.append(str(results.README))
    if results.DOCUMENT.read_text() != results.page():
        wrong.append(str(results.DOCUMENT))
    return [
        f"{line} does not say what metrics/ and results/ say: `python -m tools.results`" for line in wrong
    ]


def missing_record() -> list[str]:
    """Return what is not recorded of the run."""
    missing = [path for path in (first_steps.RUN, first_steps.EPOCH) if not path.exists()]
    remedies = {
        first_steps.RUN: "python -m tools.results --record",
        first_steps.EPOCH: "python -m tools.verify --record",
    }
    return [f"{path} is missing: `{remedies[path]}` on the machine of the run" for path in missing]


def _near(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=DIGITS, atol=0))


def _same(one: pd.DataFrame, other: pd.DataFrame, tolerance: float) -> bool:
    try:
        pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=DIGITS, atol=tolerance)
    except AssertionError:
        return False
    return True
