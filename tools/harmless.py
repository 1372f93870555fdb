"""Prove that an edit of code changes no bit of what `train` computes, and put the new code into dvc.lock.

An edit of only comments, docstrings and layout is proved by the syntax trees. Any other edit is proved by two
runs of the stage, with the code of the locked run and with the code here, on the same few images: model,
history and metrics have to have the same bytes. With --epochs the first epochs at full size have to be the
same, too. Where dvc.lock has no run of train, the edit is compared with a commit, and nothing is written.
"""

import argparse
import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.process import command, machine
from cifar_resnet.training.config import TrainConfig
from tools import first_steps, lock, scratch

IMAGES = {"train": 768, "val": 256}  # of the small runs
EPOCHS = 2
OUTPUTS = (files.MODEL, Path("plots/history.csv"), Path("metrics/train.json"))


def refuse(stages: dict[str, Any]) -> None:
    """Raise UserError when more than the code differs from the locked run, or a file of it is not here."""
    if wrong := lock.changed_settings(stages, "train"):
        raise UserError(f"{wrong[0]}; not only code was edited")
    if lock.git("status", "--porcelain", "--", str(lock.LOCK)).strip():
        raise UserError("dvc.lock is not committed: commit it, or `git checkout dvc.lock`")
    train, remedies = stages["train"], {files.MODEL: f"dvc pull -r released {files.MODEL}"}
    code = lock.code(stages, "train")
    for path, md5 in (lock.digests(train["deps"]) | lock.digests(train["outs"])).items():
        if path not in code and not (Path(path).exists() and lock.digest(Path(path)) == md5):
            remedy = remedies.get(Path(path), f"git checkout {path}")
            remedy = "dvc repro preprocess" if path.startswith(str(files.TENSORS)) else remedy
            raise UserError(f"{path} is missing or not the one in dvc.lock: `{remedy}`")


def same_syntax(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Return whether only comments, docstrings and layout differ between files, by name."""
    return before.keys() == after.keys() and all(
        before[name] == after[name] or (name.endswith(".py") and _tree(before[name]) == _tree(after[name]))
        for name in before
    )


def _tree(code: bytes) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return ast.dump(tree)


def prepare(folder: Path, commit: str | None, changes: dict[str, Any], tensors: Path) -> None:
    """Put the code of a commit or of here into `folder`, with the params.yaml of here and `changes`."""
    if commit:
        for name, content in lock.contents(["."], commit).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    else:
        scratch.clone(folder, {})
    for path in OUTPUTS:  # of the commit
        (folder / path).unlink(missing_ok=True)
    (folder / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
    scratch.change(folder / "params.yaml", changes)
    (folder / files.TENSORS).parent.mkdir(exist_ok=True)
    (folder / files.TENSORS).symlink_to(tensors.absolute())


def train(folder: Path, epochs: int | None) -> None:
    """Run the train stage in `folder`: to its end, or until it has written so many epochs."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)]),
        "XDG_CACHE_HOME": str(folder / "cache"),  # of checkpoints
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(files.CACHE / "compiled")),
    }
    process = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=folder, env=environment)
    history = folder / "plots/history.csv"
    while epochs and process.poll() is None:
        if history.exists() and len(history.read_text().splitlines()) > epochs:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(1)
    if process.wait() not in (0, 128 + signal.SIGTERM if epochs else 0):
        raise UserError(f"train failed in {folder.name}: see above")


def compare_runs(commit: str, changes: dict[str, Any], tensors: Path, epochs: int | None) -> None:
    """Train with the code of `commit` and with the code here. Raises UserError that names what differs."""
    with tempfile.TemporaryDirectory() as temporary:
        before, after = Path(temporary) / "before", Path(temporary) / "after"
        for folder, code in ((before, commit), (after, None)):
            print(f"training with the code of {commit[:9] if code else 'here'}", flush=True)
            folder.mkdir()
            prepare(folder, code, changes, tensors)
            train(folder, epochs)
        for path in (Path("plots/history.csv"),) if epochs else OUTPUTS:
            one, other = (folder / path for folder in (before, after))
            lines = [file.read_bytes().splitlines()[: epochs and epochs + 1] for file in (one, other)]
            if lines[0] != lines[1]:
                raise UserError(f"{path} differs: this edit changes the result, so train has to run again")


def cut(tensors: Path) -> None:
    """Write the first images of the training and of the validation tensors."""
    for name, count in IMAGES.items():
        found, about = files.read_tensors(files.tensors_path(name))
        rows = {key: tensor[:count] for key, tensor in found.items()}
        files.write_tensors(tensors / f"{name}.safetensors", rows, about)


def find_base(stages: dict[str, Any], commit: str | None) -> str:
    """Return the commit that has the code of the locked run; without a locked run the given one, or HEAD."""
    if "train" not in stages:
        return lock.git("rev-parse", "--verify", commit or "HEAD").strip()
    if commit:
        raise UserError("--base is for a dvc.lock without a run of train: this one says which code ran")
    found = lock.base(lock.code(stages, "train"))
    if found is None:
        raise UserError(f"none of the last {lock.SEARCHED} commits has the code of the locked run")
    return found


def prove(base: str, epochs: int | None) -> str:
    """Compare runs of both codes and return what the comparison was."""
    row, config = first_steps.published_hardware(), files.read_params("train", TrainConfig)
    wanted = row["precision"] if row else "torch.float32"
    if row and row["device"].startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"the locked run is of {row['device']}: what a CPU computes proves nothing of it")
    precision = (wanted if multiplied(wanted) else "torch.float32").removeprefix("torch.")
    if epochs and f"torch.{precision}" != wanted:
        raise UserError(
            f"whole epochs are compared in {wanted}, for which this processor has no instructions"
        )
    small = {"epochs": EPOCHS, "precision": precision, "batch_size": min(config.batch_size, IMAGES["val"])}
    small["mixing"] = {"plain_epochs": min(config.mixing.plain_epochs, 1)}
    with tempfile.TemporaryDirectory() as tensors:
        cut(Path(tensors))
        compare_runs(base, {"train": small}, Path(tensors), None)
    if epochs:
        compare_runs(base, {"train": {"precision": precision}}, files.TENSORS, epochs)
    processor = machine.processor().replace(" ", "_")
    level = f"level=epoch epochs={epochs}" if epochs else "level=bits"
    return f"{level} precision={precision} torch={torch.__version__} processor={processor}"


def record() -> None:
    """Put the code here into dvc.lock, by DVC. Raises UserError, and puts dvc.lock back, if more changed."""
    before, content = lock.read(), lock.LOCK.read_bytes()
    done = subprocess.run([sys.executable, "-m", "dvc", "commit", "--quiet", "--force", "train"])
    after = lock.read()
    for stages in (before, after):
        deps = stages["train"]["deps"]
        made = lock.digests(deps).keys() - lock.code(stages, "train").keys()
        stages["train"]["deps"] = [entry for entry in deps if entry["path"] in made]
    if done.returncode or before != after:
        files.write_bytes(lock.LOCK, content)
        raise UserError("dvc commit would have changed more than the code of train in dvc.lock: put back")


def multiplied(precision: str) -> bool:
    """Return whether this machine has instructions for a precision; emulated, it would take hours."""
    special = first_steps.facts(torch.device("cpu"))["special"]
    return precision == "torch.float32" or torch.cuda.is_available() or bool(special)


def main() -> None:
    """Refuse, prove, record."""
    parser = argparse.ArgumentParser(prog="python -m tools.harmless", description=__doc__)
    parser.add_argument("--epochs", type=int, metavar="N", help="compare the first N epochs at full size too")
    parser.add_argument("--base", metavar="COMMIT", help="where dvc.lock has no run of train; default: HEAD")
    options = parser.parse_args()
    with command.one_line():
        stages = lock.read()
        locked = "train" in stages
        if locked:
            refuse(stages)
        base = find_base(stages, options.base)
        before = lock.contents(lock.declared_code("train", base), base)
        after = lock.contents(lock.declared_code("train"))
        if before == after:
            print(f"train has the code of {base[:9]}: nothing to prove")
            return
        how = "level=syntax"
        if options.epochs or not same_syntax(before, after):
            how = prove(base, options.epochs)
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        print(f"the same result: {', '.join(changed)}")
        if not locked:
            print("dvc.lock has no run of train, so nothing was written")
            return
        record()
        print(f"dvc.lock has the new code:\n\n  git add dvc.lock dvc.yaml {' '.join(changed)}")
        print(f"  git commit --trailer 'Same-bits: train base={base[:9]} {how}'\n")
        print("evaluate and export share code with train: `dvc repro && git diff --exit-code metrics plots`")


if __name__ == "__main__":
    main()
