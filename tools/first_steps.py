"""The first training steps: computed here, recorded, and compared with those of other machines.

On the kind of processor of a recorded machine they are computed as there, and every digit has to be the same.
Elsewhere they are computed in float32 and not compiled, which takes seconds: then images and labels are the
same everywhere, and losses differ only by rounding. results/verify.json has them of several processors.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cifar_resnet import files, numerics, params
from cifar_resnet.errors import UserError
from cifar_resnet.images import Images, concatenate
from cifar_resnet.process import machine, memory
from cifar_resnet.training.augmentation import augment
from cifar_resnet.training.config import TrainConfig, steps_per_epoch
from cifar_resnet.training.distributed.world import SINGLE_PROCESS
from cifar_resnet.training.loop import epoch_plan, fit
from cifar_resnet.training.state import new_state
from tools import harmless, lock, results

RECORDED = Path("results/verify.json")
EPOCH = Path("results/steps.csv")  # the published run's running totals after each step of epoch 1
RUN = results.RESULTS / f"{results.DEFAULT}.json"
FIRST = 3  # steps; one more is computed as if it were a step of the last epoch
ROUNDING = 2e-6  # of a running loss; twice the range over the recorded processors, if that is more
LIMIT = 0.02  # the most that the range may allow
UNKNOWN = 1e-4  # the same where one processor is recorded
KIND = ("device", "instructions", "special", "torch", "cudnn")  # decide bits; other facts do so rarely
PLAIN = {"precision": "torch.float32", "compiled": False, "threads": None}
ELSE = "the code trains something else, `git diff HEAD src`"
Row = dict[str, Any]  # facts of a machine, perhaps with its steps


def facts(target: torch.device) -> Row:
    """Return what decides bits on this machine."""
    return _special({"processor": machine.processor(), **machine.fingerprint(target)})


def published() -> results.Sweep | None:
    """Return the record of the published run, if it is here."""
    return results.read().get(results.DEFAULT)


def hardware(stages: lock.Stages) -> Row | None:
    """Return what the published run was computed on, if its record is here and its params are those here."""
    sweep, locked, here = published(), stages.get("train"), params.read_section("train")
    if not sweep or not locked or not locked.params["train"] == sweep["recipe"]["train"] == here:
        return None
    found = next(iter(sweep["runs"].values()))["hardware"]
    return _special(found | {"processor": found["processor"].rsplit(", ", 1)[0]})  # without its cores


def start(how: Row) -> tuple[Any, ...]:
    """Return config, images, state, loop and facts of a run before its first step, computed as in `how`."""
    if how["threads"]:
        torch.set_num_threads(how["threads"])
    config = params.read("train", TrainConfig).model_copy(update={"processes": 1})
    name, precision = "cpu" if how is PLAIN else config.device, how["precision"].removeprefix("torch.")
    device, dtype, compiled, _ = numerics.choose(name, precision, config.deterministic, how["compiled"])
    memory.keep(device)
    (train, about), (val, _) = (files.read_tensors(files.tensors_path(split)) for split in ("train", "val"))
    splits = [Images(**train).to(device), Images(**val).to(device)]
    images = concatenate(splits) if config.all_images else splits[0]
    state = new_state(config, len(about["classes"]), device, dtype)
    loop = fit(state, config, images, splits[1], dtype, compiled)
    return config, images, state, loop, facts(device) | {"precision": str(dtype), "compiled": compiled}


def steps(how: Row) -> Row:
    """Return the facts of this machine with `inputs`, `totals` and `state` of the first steps.

    `inputs`: SHA-256 of the augmented images (uint8) and labels (int64) of the first three. `totals`: sum of
    losses and count of right answers after each. `state`: SHA-256 of weights and average at the end.
    """
    config, images, state, loop, found = start(how)
    order, draws, _ = epoch_plan(config, 0, images.images, SINGLE_PROCESS)
    inputs, end, totals = hashlib.sha256(), hashlib.sha256(), []
    for step in range(FIRST):
        batch = images.select(order[step])
        augmented = augment(batch.images, draws.select(step), config.augmentation.padding)
        inputs.update(_content(augmented) + _content(batch.labels))
    for step in range(FIRST + 1):
        if step == FIRST:  # the learning rate and the average's decay become those of the end
            state.epoch = config.epochs - 1
        next(loop)
        totals.append(state.epoch_sums.tolist())
    for network in filter(None, (state.model, state.ema)):
        for name, tensor in sorted(network.state_dict().items()):
            end.update(name.encode() + _content(tensor))
    return {**found, "inputs": inputs.hexdigest(), "totals": totals, "state": end.hexdigest()}


def compare(stages: lock.Stages) -> lock.Findings:
    """Compute the first steps and compare them with recorded ones of the same params and tensors."""
    rows, row = [row for row in _recorded() if row["run"] == identity(stages)], hardware(stages)
    rows.sort(key=lambda row: row["precision"] == PLAIN["precision"])
    if row and EPOCH.exists():
        with files.readable(EPOCH):
            totals = pd.read_csv(EPOCH, float_precision="round_trip")[["loss_sum", "correct"]].head(FIRST)
        rows.insert(0, row | {"totals": totals.to_numpy().tolist()})
    if any(len(row["totals"]) < FIRST for row in rows):
        raise UserError(f"{RECORDED}: a row has fewer than {FIRST} steps: `git diff HEAD results`")
    config = params.read("train", TrainConfig)
    device = numerics.find_device(config.device)
    here = facts(device)
    alike = [row for row in rows if _kind(row) == _kind(here) and config.processes == 1]
    if alike and (not alike[0]["compiled"] or numerics.will_compile("auto", device)[0]):
        how = {name: alike[0][name] for name in PLAIN}
        found, same = steps(how), [row for row in alike if how.items() <= row.items()]
        unequal = [  # as far as a row has them
            row
            for row in same
            for name in ("inputs", "totals", "state")
            if name in row and found[name][: len(row[name])] != row[name]
        ]
        if not unequal and any("state" in row for row in same):
            words = f"{how['precision']}{', compiled' * how['compiled']}".removeprefix("torch.")
            shown = f"{FIRST + 1} training steps in {words}"
            yield "PASS", f"{shown}: every digit as recorded on {_name(same[0])}"
            return
        if any(_name(row) == _name(here) and row["torch"] == here["torch"] for row in unequal):
            raise UserError(f"the first steps are not those of this very processor: {ELSE}")
    way = "cpu", PLAIN["precision"], PLAIN["compiled"]
    on_cpu = [row for row in rows if (row["device"][:3], row["precision"], row["compiled"]) == way]
    plain = [row for row in on_cpu if "inputs" in row]
    if not plain:
        yield "----", "no first steps are recorded for these params: `python -m tools.verify --record`"
        return
    found = steps(PLAIN)
    if any(found["inputs"] != row["inputs"] for row in plain):
        yield "FAIL", f"the images or labels of the first steps are not the recorded ones: {ELSE}"
    losses = np.array([[loss for loss, _ in row["totals"][:FIRST]] for row in [found, *plain]])
    spread = np.clip(2 * np.ptp(losses[1:], axis=0), ROUNDING, LIMIT) if plain[1:] else [UNKNOWN] * FIRST
    off = abs(losses[0] - losses[1])
    for step in np.flatnonzero(~(off <= spread)):
        problem = f"the loss after step {step + 1} is off by {off[step]:.1e}, allowed {spread[step]:.1e}"
        yield "FAIL", f"{problem}: {ELSE}"
    shown = f"agrees: in float32 {FIRST} steps have the same images, losses within {off.max():.0e} of "
    yield "PASS", shown + ", ".join(map(_name, plain))


def compare_epochs(stages: lock.Stages, count: int) -> lock.Findings:
    """Train whole epochs and compare their history; those of a whole run end in the published weights too."""
    row, here = hardware(stages), facts(numerics.find_device(params.read("train", TrainConfig).device))
    if row is None:
        yield "----", f"{RUN} is missing, or of other params: no epochs are published"
        return
    if _kind(row) != _kind(here):
        yield "----", "epochs can be compared only on the kind of machine of the published run"
        return
    if row["threads"]:
        os.environ["OMP_NUM_THREADS"] = str(row["threads"])
    settings = {"precision": row["precision"].removeprefix("torch."), "compile": row["compiled"]}
    some = count if count < len(files.read_table("history")) else None
    found = harmless.train(None, {"train": settings}, files.TENSORS, some)
    ours = {path: Path(path).read_bytes().splitlines(keepends=True)[: len(found[path])] for path in found}
    if found == ours:
        yield "PASS", f"{count} epochs are identical"
    elif _name(row) == _name(here):
        yield "FAIL", f"{count} epochs give another plots/history.csv, or other weights: {ELSE}"
    else:
        yield "----", f"{count} epochs differ, but {_name(row)} may round in another way: no verdict"


def record(stages: lock.Stages) -> None:
    """Add the first steps on this machine to results/; on that of the published run its first epoch too.

    Raises UserError when that epoch is not the one of plots/history.csv, or when an epoch has too few steps.
    """
    config = params.read("train", TrainConfig)
    if steps_per_epoch(config, files.read_metrics("data")["train_images"]) <= FIRST:
        raise UserError(f"an epoch has no more than {FIRST} steps, too few to compare")
    row, ways = hardware(stages), [PLAIN]
    if row and row["processor"] == machine.processor():
        ways.append({name: row[name] for name in PLAIN})
        *_, loop, _ = start(ways[1])
        totals: list[list[float]] = []
        for state, epoch in loop:
            if epoch:
                break
            if state.step > len(totals):  # not between batches of validation
                totals.append([state.step, *state.epoch_sums.tolist()])
        lines = pd.DataFrame([epoch]).to_csv(index=False).splitlines()
        if lines != Path("plots/history.csv").read_text().splitlines()[:2]:
            raise UserError("epoch 1 is not the one of plots/history.csv here: its steps are not recorded")
        table = pd.DataFrame(totals, columns=["step", "loss_sum", "correct"])
        files.write_csv(EPOCH, table.astype({"step": int, "correct": int}))
    rows, same = _recorded(), ("run", "device", "processor", "precision", "compiled")
    for how in ways:
        found = {"run": identity(stages)} | steps(how)
        rows = [old for old in rows if any(old[name] != found[name] for name in same)] + [found]
    text = ",\n".join(map(json.dumps, rows))
    files.write_bytes(RECORDED, f"[\n{text}\n]\n".encode())


def identity(stages: lock.Stages) -> str:
    """Return a digest of all that decides training except code: params and tensors."""
    tensors = {path: md5 for path, md5 in stages["preprocess"].outs.items() if "/tensors/" in path}
    text = json.dumps([params.read_section("train"), tensors], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _recorded() -> list[Row]:
    rows: list[Row] = files.read_json(RECORDED) if RECORDED.exists() else []
    return rows


def _special(found: Row) -> Row:
    """Facts with the flags that matter most in place of all flags."""
    flags = found.pop("flags", [])
    return found | {"special": [flag for flag in machine.INSTRUCTIONS if flag in flags]}


def _name(row: Row) -> str:
    return str(row["processor" if row["device"].startswith("cpu") else "device"])


def _kind(row: Row) -> list[Any]:
    return [str(row.get(name)).split("+")[0] for name in KIND]  # PyTorch's version without its build


def _content(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().cpu().numpy().tobytes()
