"""Check the published result on this machine. No file that Git tracks changes.

Four parts: dvc.lock against the files that are here; the figures against a row for each test image; the
weights against test images that are drawn now; the first training steps against recorded ones. What is
missing is fetched first. Exit status: 0 all agrees, 1 something differs, 3 something could not be looked at.
docs/claims.md says what that proves and what it does not.
"""

import argparse
import hashlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cifar_resnet import files
from cifar_resnet.evaluation.metrics import EvaluateConfig, accuracy
from cifar_resnet.files.params import UserError
from cifar_resnet.network.classifier import description, read_classifier
from cifar_resnet.network.inference import predict_all
from cifar_resnet.process import command
from cifar_resnet.training.config import TrainConfig
from tools import first_steps, lock, recomputed

SAMPLE = 500  # test images
PROBABILITY = 1e-4  # by which a probability may differ between processors, in float32
LOSS = 1e-3  # the same of a loss, which is 20 where an answer is surely wrong
TIES = 1  # test images whose best two classes may change places
ACCURACY = 0.0005  # by which an accuracy may differ: five test images of 10,000
VALIDATION = 0.003  # the same where training computed in bfloat16 and this command does not
# SHA-256 over the sorted SHA-256 of each image (3, 32, 32) uint8 with its label in a byte.
OFFICIAL = {
    ("test",): "11be7cf3ed0bf1df2a473c0d4d3db6eafcac4518b49a5b4224077d754106b38d",
    ("train", "val"): "fc36ff26702a9efdf08d3de274034c378032d3423bf7dd6c1022bebe6a7b810a",
}
OURS = {"benchmarks", "hubconf", "notebooks", "src", "stages", "tests", "tools"}  # where Python files are
PULL = f"dvc pull -r released {files.MODEL}"
PREPROCESS = "dvc repro preprocess"


class Finding(NamedTuple):
    """What a part has shown, or what differs, or what it could not look at: each with the next step."""

    shown: str
    differs: Sequence[str] = ()
    unseen: Sequence[str] = ()


def check_lock(stages: dict[str, Any]) -> Finding:
    """Compare dvc.lock with dvc.yaml, params.yaml, the code and the results that are here."""
    declared = files.read_yaml(Path("dvc.yaml"))["stages"]
    outs = {path: md5 for stage in stages.values() for path, md5 in lock.digests(stage["outs"]).items()}
    tracked = set(lock.git("ls-files", "-z", "--", *outs).split("\0"))
    differs = [line for name in stages for line in lock.outdated(stages, name)]
    for path, md5 in outs.items():
        if path in tracked or Path(path).is_file():
            remedy = f"git checkout HEAD {path}" if path in tracked else f"rm {path}; make verify"
            if not Path(path).is_file() or lock.digest(Path(path)) != md5:
                differs.append(f"{path} is not the one in dvc.lock: `{remedy}`")
    missing = sorted(declared.keys() - stages.keys())
    differs += foreign()
    unseen = [f"dvc.lock has no run of {', '.join(missing)}: `dvc repro` makes it"] if missing else []
    return Finding(
        f"dvc.lock has the params, the code and the {len(outs)} results that are here", differs, unseen
    )


def foreign() -> list[str]:
    """Return what Git has that would take the place of data made here, or of a module that Python imports."""
    made = lock.git("ls-files", "--", "data", "models", ".dvc/cache").split()
    roots = {path.split("/")[0].removesuffix(".py") for path in lock.git("ls-files", "--", "*.py").split()}
    hiding = (roots - OURS) & (sys.stdlib_module_names | packages_distributions().keys())
    return [f"Git has {path}, which the stages make: `git rm --cached {path}`" for path in made] + [
        f"{name} in this folder hides Python's module of that name: rename it" for name in sorted(hiding)
    ]


def official(*names: str) -> bool:
    """Return whether tensors have exactly the official images of CIFAR-10, with their labels."""
    rows = []
    for name in names:
        tensors, _ = files.read_tensors(files.tensors_path(name))
        for image, label in zip(tensors["images"].numpy(), tensors["labels"].tolist(), strict=True):
            rows.append(hashlib.sha256(image.tobytes() + bytes([label])).digest())
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest() == OFFICIAL[names]


def check_figures(stages: dict[str, Any]) -> Finding:
    """Compute metrics, tables and README again, from plots/predictions.csv and plots/history.csv."""
    if "evaluate" not in stages:
        return Finding("", unseen=["there are no predictions yet: `dvc repro` makes them"])
    return Finding(
        f"metrics, tables and pages follow from {len(files.read_table('predictions')):,} predictions",
        [*recomputed.check_evaluation(), *recomputed.check_training(), *recomputed.check_pages()],
        recomputed.missing_record(),
    )


def check_weights(stages: dict[str, Any], seed: int, full: bool) -> Finding:
    """Compute the answers for some test images, or for all, and compare with plots/predictions.csv."""
    test = files.tensors_path("test")
    if "evaluate" not in stages:
        return Finding("", unseen=["there are no weights yet: `dvc repro` trains them"])
    unseen = [
        f"{path} is missing: `{remedy}`"
        for path, remedy in ((files.MODEL, PULL), (test, PREPROCESS))
        if not path.exists()
    ]
    if unseen:
        return Finding("", unseen=unseen)
    model, normalization, names, _ = read_classifier(files.MODEL, torch.device("cpu"))
    tensors, about = files.read_tensors(test)
    images, labels = tensors["images"], tensors["labels"]
    dataset, config = files.read_section("fetch")["dataset"], files.read_params("train", TrainConfig)
    if dataset == "cifar10" and not official("test"):
        return Finding("", [f"{test} has not the official test images of CIFAR-10"])
    _, said = files.read_tensors(files.MODEL)
    wanted = description(config.model, config.normalization, about["classes"], images.shape[-1])
    if {name: said[name] for name in said if name != "sha256"} != wanted:
        return Finding("", [f"{files.MODEL} describes another network than params.yaml, or other classes"])
    table = files.read_table("predictions").set_index("index").sort_index()
    differs = []
    if table["label"].to_list() != [names[label] for label in labels]:
        differs.append("plots/predictions.csv has other labels than the test images: `git diff HEAD plots`")
        return Finding("", differs)

    def logits(chosen: Tensor) -> Tensor:
        return predict_all(model, chosen.split(SAMPLE), normalization, torch.float32)

    count = len(labels) if full else min(SAMPLE, len(labels))
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    answers = logits(images[drawn])
    probabilities = answers.double().softmax(1)
    rows = table.iloc[drawn.tolist()]
    predicted = torch.tensor([names.index(name) for name in rows["prediction"]])
    of_predicted = probabilities.gather(1, predicted.unsqueeze(1)).squeeze(1)
    stated = torch.tensor(rows["confidence"].to_numpy())
    losses = -probabilities.log().gather(1, labels[drawn].unsqueeze(1)).squeeze(1)
    same = (probabilities.amax(1) - stated).abs() <= PROBABILITY
    same &= (of_predicted - stated).abs() <= PROBABILITY
    same &= (losses - torch.tensor(rows["loss"].to_numpy())).abs() <= LOSS
    other = int((answers.argmax(1) != predicted).sum())
    if not same.all() or other > TIES:
        differs.append(
            f"of {count} test images the weights answer {max(int((~same).sum()), other)} otherwise:"
            f" plots/predictions.csv is not of {files.MODEL}"
        )
    if full:
        differs += _all_images(answers, labels[drawn], lambda: logits(images.flip(3)), logits)
    shown = f"{count:,} test images of {dataset} (seed {seed}): the answers of plots/predictions.csv"
    return Finding(shown, differs)


def _all_images(
    answers: Tensor, labels: Tensor, mirrored: Callable[[], Tensor], logits: Callable[[Tensor], Tensor]
) -> list[str]:
    """Return what differs in the accuracy with mirror images, and in that on the validation images."""
    differs, test, train = [], files.read_metrics("test"), files.read_metrics("train")
    if files.read_params("evaluate", EvaluateConfig).flip:
        both = accuracy(answers + mirrored(), labels)
        if not abs(both - test["test_accuracy_with_flip"]) <= ACCURACY:
            differs.append(f"test_accuracy_with_flip of metrics/test.json is {both:.4f} here")
    val, _ = files.read_tensors(files.tensors_path("val"))
    here = accuracy(logits(val["images"]), val["labels"])
    if not abs(here - train["val_accuracy"]) <= VALIDATION:
        differs.append(
            f"val_accuracy of metrics/train.json is {here:.4f} here: these weights are not of that run"
        )
    return differs


def check_steps(stages: dict[str, Any], epochs: int) -> Finding:
    """Compute the first training steps here, and whole epochs if asked to, and compare with recorded ones."""
    missing = [path for path in map(files.tensors_path, ("train", "val")) if not path.exists()]
    if missing:
        return Finding("", unseen=[f"{path} is missing: `{PREPROCESS}`" for path in missing])
    config = files.read_section("preprocess")
    whole = files.read_section("fetch")["dataset"] == "cifar10" and config["train_images"] is None
    if whole and not official("train", "val"):
        return Finding("", ["data/tensors has not the official training images of CIFAR-10"])
    shown, differs, unseen = first_steps.compare(*lock.identity(stages))
    if epochs and not first_steps.RUN.exists():
        unseen = [*unseen, f"{first_steps.RUN} is missing: no epochs are published"]
    elif epochs and not differs:
        lines, equal, alike = first_steps.compare_epochs(epochs)
        print(lines)
        shown += f"; {epochs} epochs are identical" if equal else ""
        if not equal and alike:
            differs = [
                "these epochs give other rows of plots/history.csv, or other weights than the published ones"
            ]
        elif not equal:
            unseen = [*unseen, "epochs can be compared only on the kind of machine of the published run"]
    return Finding(shown, differs, unseen)


def get_missing(stages: dict[str, Any]) -> None:
    """Get the published weights and make the tensors, where they are missing; say so first."""
    wanted = []
    if "train" in stages and not files.MODEL.exists():
        wanted.append((PULL, "the published weights"))
    tensors = [files.tensors_path(name) for name in ("train", "val", "test")]
    stale = [line for name in ("fetch", "preprocess") for line in lock.outdated(stages, name)]
    if not all(path.exists() for path in tensors) and not stale:  # or DVC would write another dvc.lock
        wanted.append((PREPROCESS, "the images: 170 MB, or from CIFAR10_SOURCE"))
    for words, what in wanted:
        print(f"missing, so `{words}` runs: {what}", flush=True)
        program, *arguments = words.split()
        subprocess.run([sys.executable, "-m", program, *arguments])  # a part says what is still missing


def report(name: str, part: Callable[[], Finding]) -> Finding:
    """Carry out a part and print its lines."""
    started = time.monotonic()
    try:
        finding = part()
    except (UserError, OSError) as error:  # a file that is damaged or gone
        finding = Finding("", differs=[str(error)])
    verdict = "FAIL" if finding.differs else "----" if finding.unseen else "PASS"
    lines = [*finding.differs, *finding.unseen] or [finding.shown]
    print(f"{verdict}  {name:8}{time.monotonic() - started:6.1f} s  {lines[0]}")
    for line in lines[1:]:
        print(f"{'':24}{line}")
    sys.stdout.flush()
    return finding


def main() -> None:
    """Get what is missing, check, say whether all agrees."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("--epochs", type=int, default=0, metavar="N", help="train N whole epochs too")
    parser.add_argument("--full", action="store_true", help="all test and validation images, not a sample")
    parser.add_argument("--sample-seed", type=int, metavar="SEED", help="of the sample; default: a new one")
    parser.add_argument("--record", action="store_true", help="add this machine's first steps to results/")
    options = parser.parse_args()
    with command.one_line():
        stages = lock.read()
        if missing := {"fetch", "preprocess"} - stages.keys():
            raise UserError(f"dvc.lock has no run of {min(missing)}: `dvc repro preprocess` makes it")
        get_missing(stages)
        if options.record:
            first_steps.record(*lock.identity(stages))
            return
        seed = secrets.randbelow(10**9) if options.sample_seed is None else options.sample_seed
        started = time.monotonic()
        findings = [
            report("lock", lambda: check_lock(stages)),
            report("figures", lambda: check_figures(stages)),
            report("weights", lambda: check_weights(stages, seed, options.full)),
            report("steps", lambda: check_steps(stages, options.epochs)),
        ]
    differs, unseen = (any(getattr(finding, name) for finding in findings) for name in ("differs", "unseen"))
    verdict = "it differs" if differs else "not all could be looked at" if unseen else "all agrees"
    print(f"{verdict} ({time.monotonic() - started:.0f} s)")
    sys.exit(1 if differs else 3 if unseen else 0)


if __name__ == "__main__":
    main()
