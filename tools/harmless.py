"""Prove that an edit of code changes no bit of what `train` computes, and put the new code into dvc.lock.

An edit of only comments, docstrings and layout is proved by the syntax trees. Any other edit is proved by two
runs of the stage, with the code of the locked run and with the code here, on the same few images: model,
history and metrics have to have the same bytes. With --epochs the first epochs at full size have to be the
same, too.
"""

import argparse
import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_resnet import files, numerics, params
from cifar_resnet.errors import UserError
from cifar_resnet.process import command
from cifar_resnet.training.config import TrainConfig
from tools import lock, scratch

IMAGES = {"train": 768, "val": 256}  # of the small runs
EPOCHS = 2
HISTORY = "plots/history.csv"
OUTPUTS = ("models/resnet50.safetensors", HISTORY, "metrics/train.json")


def refuse(stages: lock.Stages) -> None:
    """Raise UserError when more than the code differs from the locked run, or a file of it is not here."""
    for line in lock.outdated(stages, "train", code=False):
        raise UserError(f"{line}; not only code was edited")
    if lock.git("status", "--porcelain", "--", str(lock.LOCK)):
        raise UserError("dvc.lock is not committed: commit it, or `git checkout dvc.lock`")
    for path, md5 in (stages["train"].data | stages["train"].outs).items():
        if lock.digest(path) != md5:
            raise UserError(f"{path} is missing or not the one in dvc.lock: `{lock.remedy(stages, path)}`")


def same_syntax(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    """Return whether only comments, docstrings and layout differ between files, by name."""
    return before.keys() == after.keys() and all(
        before[name] == after[name] or (name.endswith(".py") and _tree(before[name]) == _tree(after[name]))
        for name in before
    )


def _tree(code: bytes) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return ast.dump(tree)


def train(
    commit: str | None, changes: Mapping[str, Any], tensors: Path, epochs: int | None = None
) -> dict[str, list[bytes]]:
    """Run the train stage in a folder of its own; return the lines of its model, history and metrics.

    `commit`: whose code, None for that here; `changes`: of the params.yaml here; `epochs`: after which the
    run is stopped, then there is only the history of them.
    """
    print(f"training with the code of {commit[:9] if commit else 'here'}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = lock.contents(["."], commit) | {"params.yaml": Path("params.yaml").read_bytes()}
        for name in inputs.keys() - set(OUTPUTS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(inputs[name])
        scratch.change(folder / "params.yaml", changes)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data/tensors").symlink_to(tensors.absolute())
        paths = {"PYTHONPATH": f"{folder}/src{os.pathsep}{folder}", "XDG_CACHE_HOME": f"{folder}/cache"}
        command = [sys.executable, "-m", "stages.train"]
        process = subprocess.Popen(command, cwd=folder, env=os.environ | paths)
        history = folder / HISTORY
        while epochs and process.poll() is None:
            if history.exists() and len(history.read_text().splitlines()) > epochs:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(1)
        if process.wait() not in (0, 128 + signal.SIGTERM if epochs else 0):
            raise UserError(f"train failed with the code of {commit or 'here'}: see above")
        contents = {name: (folder / name).read_bytes() for name in ((HISTORY,) if epochs else OUTPUTS)}
    return {name: contents[name].splitlines(keepends=True)[: epochs and epochs + 1] for name in contents}


def prove(base: str, stages: lock.Stages, epochs: int | None) -> str:
    """Compare runs of both codes and return how. Raises UserError that names what differs."""
    from tools import first_steps  # which imports this module

    config, row = params.read("train", TrainConfig), first_steps.hardware(stages)
    here = first_steps.facts(numerics.find_device(config.device))
    if row and row["device"].split()[0] != here["device"].split()[0]:
        raise UserError(f"the locked run is of {row['device']}: what {here['device']} computes shows nothing")
    precision = str((row or first_steps.PLAIN)["precision"]).removeprefix("torch.")
    if precision != "float32" and here["device"].startswith("cpu") and not here["special"]:  # takes hours
        if epochs:
            raise UserError(f"whole epochs are compared in {precision}, which this processor only emulates")
        precision = "float32"
    numerics.keep_code()
    small = {
        "epochs": EPOCHS,
        "precision": precision,
        "batch_size": min(config.batch_size, IMAGES["val"]),
        "mixing": {"plain_epochs": min(config.mixing.plain_epochs, 1)},
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, count in IMAGES.items():
            found, about = files.read_tensors(files.tensors_path(name))
            first = {key: tensor[:count] for key, tensor in found.items()}
            files.write_tensors(Path(temporary) / f"{name}.safetensors", first, about)
        compare(base, small, Path(temporary), None)
    if epochs:
        compare(base, {"precision": precision}, files.TENSORS, epochs)
    level = f"level=epoch epochs={epochs}" if epochs else "level=bits"
    processor = here["processor"].replace(" ", "_")
    return f"{level} precision={precision} torch={here['torch']} processor={processor}"


def compare(base: str, settings: Mapping[str, Any], tensors: Path, epochs: int | None) -> None:
    """Train with the code of `base` and with the code here. Raises UserError that names what differs."""
    before, after = (train(commit, {"train": settings}, tensors, epochs) for commit in (base, None))
    for name in before:
        if before[name] != after[name]:
            raise UserError(f"{name} differs: this edit changes the result, so train has to run again")


def main() -> None:
    """Refuse, prove, record."""
    parser = argparse.ArgumentParser(prog="python -m tools.harmless", description=__doc__)
    parser.add_argument("--epochs", type=int, metavar="N", help="compare the first N epochs at full size too")
    options = parser.parse_args()
    with command.one_line():
        stages = lock.locked()
        refuse(stages)
        base = lock.base(stages["train"].code)
        if base is None:
            raise UserError(f"none of the last {lock.SEARCHED} commits has the code of the locked run")
        before, after = (lock.contents(lock.declared(one)["train"].code, one) for one in (base, None))
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        if not changed:
            print(f"train has the code of {base[:9]}: nothing to prove")
            return
        proved = not options.epochs and same_syntax(before, after)
        how = "level=syntax" if proved else prove(base, stages, options.epochs)
        print(f"the same result: {', '.join(changed)}")
        refuse(stages)  # again, since DVC records what is there now
        if subprocess.run([sys.executable, "-m", "dvc", "commit", "--quiet", "--force", "train"]).returncode:
            raise UserError("`dvc commit --force train` failed: run it to see why")
        print(f"dvc.lock has the new code:\n\n  git add dvc.lock dvc.yaml {' '.join(changed)}")
        print(f"  git commit --trailer 'Same-bits: train base={base[:9]} {how}'\n")
        print("evaluate and export share code with train: `dvc repro`, then look at `git diff metrics plots`")


if __name__ == "__main__":
    main()
