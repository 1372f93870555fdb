"""Check the published result on this machine. No file that Git tracks changes.

Four parts: dvc.lock against the files that are here; the figures against a row for each test image; the
weights against test images that are drawn now; the first training steps against recorded ones. What is
missing is fetched first. Exit status: 0 all agrees, 1 something differs, 3 something could not be looked at.
docs/claims.md says what that proves and what it does not.
"""

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cifar_resnet import files, params
from cifar_resnet.errors import UserError
from cifar_resnet.evaluation.metrics import EvaluateConfig, accuracy
from cifar_resnet.network.classifier import model_metadata, read_classifier
from cifar_resnet.network.inference import predict_all
from cifar_resnet.process import command
from cifar_resnet.training.config import TrainConfig
from tools import first_steps, lock
from tools.recomputed import check_figures

SAMPLE = 500  # test images
PROBABILITY = 1e-4  # by which a probability may differ between processors, in float32
LOSS = 1e-3  # the same of a loss, which is 20 where an answer is surely wrong
TIES = 1  # test images whose best two classes may change places
ACCURACY = 0.0005  # by which an accuracy may differ: five test images of 10,000
VALIDATION = 0.003  # the same where training computed in bfloat16 and this command does not
OFFICIAL = "83181262557aea1627efe13f34d74197"  # MD5 of the test tensors made of CIFAR-10's official files
REPRO = "`dvc repro`"
TRAIN, VAL, TEST = map(files.tensors_path, ("train", "val", "test"))


def check_lock(stages: lock.Stages) -> lock.Findings:
    """Compare dvc.lock with dvc.yaml, params.yaml, the code and the results that are here."""
    outs = {path: md5 for stage in stages.values() for path, md5 in stage.outs.items()}
    tracked = lock.git("ls-files", "-z", "--", *outs).split("\0")
    for name in stages:
        for line in lock.outdated(stages, name):
            yield "FAIL", line
    for path, md5 in outs.items():
        if (path in tracked or Path(path).is_file()) and lock.digest(path) != md5:
            yield "FAIL", f"{path} is not the one in dvc.lock: `{lock.remedy(stages, path)}`"
    yield "PASS", "params, code and results are those of dvc.lock"


def check_weights(stages: lock.Stages, seed: int, full: bool) -> lock.Findings:
    """Compute the answers for some test images, or for all, and compare with plots/predictions.csv."""
    if gone := [path for path in (files.MODEL, TEST) if not path.exists()]:
        yield "----", f"{gone[0]} is missing: `{lock.remedy(stages, str(gone[0]))}`"
        return
    dataset = params.read_section("fetch")["dataset"]
    if dataset == "cifar10" and lock.digest(str(TEST)) != OFFICIAL:
        raise UserError(f"{TEST} does not have CIFAR-10's official images: {REPRO}")
    model, normalization, names, _ = read_classifier(files.MODEL, torch.device("cpu"))
    (tensors, about), (_, said) = files.read_tensors(TEST), files.read_tensors(files.MODEL)
    images, labels, config = tensors["images"], tensors["labels"], params.read("train", TrainConfig)
    wanted = model_metadata(config.model, config.normalization, about["classes"], images.shape[-1])
    if said != wanted | {"sha256": said["sha256"]}:
        raise UserError(f"{files.MODEL} describes another network, or other classes: {REPRO}")
    table = files.read_table("predictions").set_index("index").sort_index()
    if table["label"].to_list() != [names[label] for label in labels]:
        raise UserError("plots/predictions.csv has other labels than the test images: `git diff HEAD plots`")

    def logits(chosen: Tensor) -> Tensor:
        return predict_all(model, chosen.split(SAMPLE), normalization, torch.float32)

    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = drawn[: len(labels) if full else SAMPLE].sort().values
    answers, rows, each = logits(images[drawn]), table.iloc[drawn.tolist()], torch.arange(len(drawn))
    probabilities = answers.double().softmax(1)
    claimed = pd.Index(names).get_indexer(pd.Index(rows["prediction"]))
    losses = -probabilities[each, labels[drawn]].log()
    found = torch.stack([probabilities.amax(1), probabilities[each, claimed], losses], dim=1).numpy()
    same = abs(found - rows[["confidence", "confidence", "loss"]]) <= [PROBABILITY, PROBABILITY, LOSS]
    wrong, other = int((~same).any(axis=1).sum()), int((answers.argmax(1).numpy() != claimed).sum())
    if wrong or other > TIES:
        count = f"of {len(drawn)} test images the weights answer {max(wrong, other)} otherwise"
        yield "FAIL", f"{count}: plots/predictions.csv is not of {files.MODEL}: {REPRO}"
    shares = []
    if full:
        val, _ = files.read_tensors(VAL)
        shares.append(("train", "val_accuracy", accuracy(logits(val["images"]), val["labels"]), VALIDATION))
    if full and params.read("evaluate", EvaluateConfig).flip:
        both = accuracy(answers + logits(images.flip(3)), labels)
        shares.append(("test", "test_accuracy_with_flip", both, ACCURACY))
    for stage, name, share, allowed in shares:
        if not abs(share - files.read_metrics(stage)[name]) <= allowed:
            yield "FAIL", f"{name} of metrics/{stage}.json is {share:.4f} here, so of other weights: {REPRO}"
    shown = f"{len(drawn):,} test images of {dataset} (seed {seed})"
    yield "PASS", f"{shown}: the weights give the answers of plots/predictions.csv"


def check_steps(stages: lock.Stages, epochs: int) -> lock.Findings:
    """Compute the first training steps here, and whole epochs if asked to, and compare with recorded ones."""
    if gone := [path for path in (TRAIN, VAL) if not path.exists()]:
        yield "----", f"{gone[0]} is missing: `{lock.remedy(stages, str(gone[0]))}`"
        return
    found = list(first_steps.compare(stages))
    yield from found
    if epochs and "FAIL" not in dict(found):
        yield from first_steps.compare_epochs(stages, epochs)


def get_missing(stages: lock.Stages) -> None:
    """Get the published weights and make the tensors, where they are missing; say so first."""
    wanted = {"the published weights, 94 MB": [files.MODEL]}
    if not any(line for name in ("fetch", "preprocess") for line in lock.outdated(stages, name)):
        wanted["the images, 170 MB or from CIFAR10_SOURCE"] = [TRAIN, VAL, TEST]  # else dvc.lock would change
    for what, paths in wanted.items():
        if not all(path.exists() for path in paths):
            words = lock.remedy(stages, str(paths[0]))
            print(f"missing, so `{words}` runs: {what}", flush=True)
            subprocess.run([sys.executable, "-m", *words.split()])  # a part says what is still missing


def collect(part: lock.Findings) -> dict[str, list[str]]:
    """Return the lines of a part by their verdict. What a part raises differs: a file that is damaged."""
    found: dict[str, list[str]] = {"FAIL": [], "----": [], "PASS": []}
    try:
        for verdict, line in part:
            found[verdict].append(line)
    except (UserError, OSError) as error:
        found["FAIL"].append(str(error))
    return found


def main() -> None:
    """Get what is missing, check, say whether all agrees."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("--epochs", type=int, default=0, metavar="N", help="train N whole epochs too")
    parser.add_argument("--full", action="store_true", help="all test and validation images, not a sample")
    parser.add_argument("--sample-seed", type=int, metavar="SEED", help="of the sample; default: a new one")
    parser.add_argument("--record", action="store_true", help="add this machine's first steps to results/")
    options = parser.parse_args()
    with command.one_line():
        stages = lock.locked()
        get_missing(stages)
        if options.record:
            first_steps.record(stages)
            return
        seed = secrets.randbelow(10**9) if options.sample_seed is None else options.sample_seed
        parts = {
            "lock": check_lock(stages),
            "figures": check_figures(),
            "weights": check_weights(stages, seed, options.full),
            "steps": check_steps(stages, options.epochs),
        }
        started, verdicts = time.monotonic(), set()
        for name, part in parts.items():
            begun, found = time.monotonic(), collect(part)
            verdict = next(verdict for verdict, lines in found.items() if lines)
            lines = found["FAIL"] + found["----"] or found["PASS"]
            head = f"{verdict}  {name:8}{time.monotonic() - begun:6.1f} s  "
            print(head + f"\n{'':24}".join(lines), flush=True)
            verdicts.add(verdict)
    words, status = "all agrees", 0
    if verdicts != {"PASS"}:
        words, status = ("it differs", 1) if "FAIL" in verdicts else ("some parts could not be checked", 3)
    print(f"{words} ({time.monotonic() - started:.0f} s)")
    sys.exit(status)


if __name__ == "__main__":
    main()
