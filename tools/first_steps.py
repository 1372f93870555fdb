"""The first training steps: computed here, recorded, and compared with those of other machines.

On the kind of processor of a recorded machine they are computed as there, and every digit has to be the same.
Elsewhere they are computed in float32 and not compiled, which takes seconds: then images and labels are the
same everywhere, and losses differ only by rounding. results/verify.json has them of several processors.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.images import Images, concatenate
from cifar_resnet.network import device
from cifar_resnet.process import compilation, machine
from cifar_resnet.process.progress import Progress
from cifar_resnet.training.augmentation import augment
from cifar_resnet.training.config import TrainConfig, steps_per_epoch
from cifar_resnet.training.distributed.world import ALONE
from cifar_resnet.training.loop import epoch_inputs, fit
from cifar_resnet.training.state import history_table, new_state
from tools import results

RECORDED = Path("results/verify.json")
EPOCH = Path("results/steps.csv")  # the published run's running totals after each step of epoch 1
RUN = results.RESULTS / f"{results.DEFAULT}.json"
FIRST = 3  # steps; one more is computed as if it were a step of the last epoch
ROUNDING = 2e-6  # of a running loss; twice the range over the recorded processors, if that is more
LIMIT = 0.02  # the most that the range may allow
UNKNOWN = 1e-4  # the same where one processor is recorded
# What decides bits; other facts of a processor do so rarely.
KIND = ("device", "instructions", "special", "torch", "cudnn")
PLAIN = {"precision": "torch.float32", "compiled": False, "threads": None}
ELSE = "the code trains something else, `git diff HEAD src`"
Row = dict[str, Any]  # facts of a machine, perhaps with its steps


class Run:
    """Training from the first step on as params.yaml says, in the precision and so on of `how`."""

    def __init__(self, how: Row) -> None:
        compilation.keep_code()
        if how["threads"]:
            torch.set_num_threads(how["threads"])
        self.config = config = files.read_params("train", TrainConfig)
        device.make_deterministic(config.deterministic)
        target = device.select_device("cpu" if how is PLAIN else config.device)
        dtype: torch.dtype = getattr(torch, how["precision"].removeprefix("torch."))
        (train, about), (val, _) = (files.read_tensors(files.tensors_path(name)) for name in ("train", "val"))
        images = Images(**train)
        self.images = concatenate([images, Images(**val)]) if config.all_images else images
        self.images, val_images = self.images.to(target), Images(**val).to(target)
        self.state = new_state(config, len(about["classes"]), target, dtype)
        self.loop = fit(self.state, config, self.images, val_images, dtype, how["compiled"])
        self.facts = facts(target) | {"precision": str(dtype), "compiled": how["compiled"]}

    def steps(self) -> Row:
        """Return the facts of this machine with `inputs`, `totals` and `state` of the first steps.

        `inputs`: SHA-256 of the augmented images (uint8) and labels (int64) of the first three. `totals`: sum
        of losses and count of right answers after each. `state`: SHA-256 of weights and average at the end.
        """
        order, draws, _ = epoch_inputs(self.config, 0, self.images.images, ALONE)
        inputs, state, totals = hashlib.sha256(), hashlib.sha256(), []
        for step in range(FIRST):
            batch = self.images.rows(order[step])
            augmented = augment(batch.images, draws.rows(step), self.config.augmentation.padding)
            inputs.update(_content(augmented) + _content(batch.labels))
        for step in range(FIRST + 1):
            if step == FIRST:  # the learning rate and the average's decay become those of the end
                self.state.epoch = self.config.epochs - 1
            next(self.loop)
            totals.append(self.state.totals.tolist())
        for network in filter(None, (self.state.model, self.state.average)):
            for name, tensor in sorted(network.state_dict().items()):
                state.update(name.encode() + _content(tensor))
        return self.facts | {"inputs": inputs.hexdigest(), "totals": totals, "state": state.hexdigest()}

    def epochs(self, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the history of `count` epochs, and the running totals after each step of the first."""
        totals: list[tuple[int, float, int]] = []
        with Progress(self.state, self.config, len(self.images.labels), facts=None) as progress:
            while self.state.epoch < count:
                state, record = next(self.loop)
                if not state.epoch and state.step > len(totals):
                    loss, correct = state.totals.tolist()
                    totals.append((state.step, loss, int(correct)))
                progress.update(state, record)
        return history_table(self.state), pd.DataFrame(totals, columns=["step", "loss_sum", "correct"])

    def ends_in(self, path: Path) -> bool:
        """Return whether a model file has the weights of the best epoch so far, bit for bit."""
        weights, _ = files.read_tensors(path)
        best = self.state.best_weights
        return weights.keys() == best.keys() and all(
            torch.equal(weights[name], best[name].cpu()) for name in best
        )


def compare(run: str, published: bool) -> tuple[str, list[str], list[str]]:
    """Return what the first steps here show, or what differs from recorded ones, or what is not to be seen.

    `run`: the digest of params and tensors; `published`: whether they are those of the published run.
    """
    recorded, here = _rows(run, published), facts(device.select_device("auto"))
    if any(len(row["totals"]) < FIRST for row in recorded):
        return "", [f"{RECORDED}: a row has fewer than {FIRST} steps: `git diff HEAD results`"], []
    alike = [row for row in recorded if _kind(row) == _kind(here)]
    if alike:
        how = {name: alike[0][name] for name in PLAIN}
        found = Run(how).steps()
        same = [row for row in alike if how.items() <= row.items()]
        unequal = [row for row in same if not _equal(found, row)]
        if not unequal:
            return f"{FIRST + 1} steps in {_words(how)}: every digit of {same[0]['processor']}", [], []
        if any(row["processor"] == here["processor"] and row["torch"] == here["torch"] for row in unequal):
            return "", [f"the first steps are not those of this very processor: {ELSE}"], []
    plain = [
        row
        for row in recorded
        if row["precision"] == PLAIN["precision"] and not row["compiled"] and "inputs" in row
    ]
    if not plain:
        return "", [], ["no first steps are recorded for these params: `python -m tools.verify --record`"]
    found, differs = Run(PLAIN).steps(), []
    if any(found["inputs"] != row["inputs"] for row in plain):
        differs.append(f"the images or labels of the first steps are not the recorded ones: {ELSE}")
    worst = 0.0
    for step in range(FIRST):
        losses = [row["totals"][step][0] for row in plain]
        spread = max(ROUNDING, 2 * (max(losses) - min(losses))) if len(losses) > 1 else UNKNOWN
        spread = min(spread, LIMIT)
        worst = max(worst, off := abs(found["totals"][step][0] - losses[0]))
        if not off <= spread:
            differs.append(
                f"the loss after step {step + 1} is off by {off:.1e}, allowed {spread:.1e}: {ELSE}"
            )
    processors = ", ".join(row["processor"] for row in plain)
    shown = (
        f"agrees: in float32 {FIRST} steps have the same images, losses within {worst:.0e} of {processors}"
    )
    return shown, differs, []


def compare_epochs(count: int) -> tuple[str, bool, bool]:
    """Return both histories as text, whether all digits are equal, and whether they have to be."""
    row = published_hardware() or PLAIN
    run = Run({name: row[name] for name in PLAIN})
    ours = pd.read_csv(io.StringIO(run.epochs(count)[0].to_csv(index=False)), dtype=str)
    history = pd.read_csv("plots/history.csv", dtype=str)
    theirs = history.head(count)
    equal = ours.equals(theirs) and (count < len(history) or run.ends_in(files.MODEL))
    shown = pd.concat({"published": theirs.T, "here": ours.T}, axis=1).to_string()
    return shown, equal, all(run.facts[name] == row.get(name) for name in (*KIND, "processor"))


def record(run: str, published: bool) -> None:
    """Add the first steps on this machine to results/; on that of the published run its first epoch too.

    Raises UserError when that epoch is not the one of plots/history.csv, or when an epoch has too few steps.
    """
    config, data = files.read_params("train", TrainConfig), files.read_metrics("data")
    if steps_per_epoch(config, data["train_images"]) <= FIRST:
        raise UserError(f"an epoch has no more than {FIRST} steps, too few to compare")
    row = published_hardware() if published else None
    ways = [PLAIN]
    if row and row["processor"] == machine.processor():
        ways.append({name: row[name] for name in PLAIN})
        history, totals = Run(ways[-1]).epochs(1)
        lines = history.to_csv(index=False).splitlines(), Path("plots/history.csv").read_text().splitlines()
        if lines[0][1] != lines[1][1]:
            raise UserError("epoch 1 is not the one of plots/history.csv here: its steps are not recorded")
        totals.to_csv(EPOCH, index=False, lineterminator="\n")
    rows: list[Row] = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    for how in ways:
        found = {"run": run} | Run(how).steps()
        same = ("run", "processor", "precision", "compiled")
        rows = [old for old in rows if any(old[name] != found[name] for name in same)] + [found]
    lines_of = ",\n".join(json.dumps(found) for found in rows)
    files.write_bytes(RECORDED, f"[\n{lines_of}\n]\n".encode())


def facts(target: torch.device) -> Row:
    """Return what decides bits on this machine."""
    return _special({"processor": machine.processor(), **machine.fingerprint(target)})


def _special(found: Row) -> Row:
    """Return facts with the flags that matter most in place of all flags."""
    flags = found.pop("flags", [])
    return found | {"special": [flag for flag in machine.INSTRUCTIONS if flag in flags]}


def published_hardware() -> Row | None:
    """Return what the published run was computed on, if its record is here."""
    if not RUN.exists():
        return None
    hardware = next(iter(json.loads(RUN.read_text())["runs"].values()))["hardware"]
    return _special(hardware | {"processor": hardware["processor"].rsplit(", ", 1)[0]})  # without its cores


def _rows(run: str, published: bool) -> list[Row]:
    """The recorded first steps of these params and tensors, those of the published run first."""
    rows = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    rows = sorted(
        (row for row in rows if row["run"] == run), key=lambda row: PLAIN["precision"] == row["precision"]
    )
    row = published_hardware()
    if published and row and EPOCH.exists():
        totals = pd.read_csv(EPOCH, float_precision="round_trip")[["loss_sum", "correct"]].head(FIRST)
        rows.insert(0, row | {"totals": totals.to_numpy().tolist()})
    return rows


def _kind(row: Row) -> list[Any]:
    return [str(row.get(name)).split("+")[0] for name in KIND]  # PyTorch's version without its build


def _equal(found: Row, row: Row) -> bool:
    """Whether the steps of a row are the same, as far as it has them."""
    names = [name for name in ("inputs", "totals", "state") if name in row]
    return all(found[name][: len(row[name])] == row[name] for name in names)


def _words(how: Row) -> str:
    return f"{how['precision']}{', compiled' * how['compiled']}".removeprefix("torch.")


def _content(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().cpu().numpy().tobytes()
