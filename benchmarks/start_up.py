"""What one waits for before anything happens: usage, an up-to-date `dvc repro`, the first training step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.clone import Clone
from benchmarks.report import Row, report
from tools import scratch

STAGES = ("fetch", "preprocess", "duplicates", "train", "evaluate", "export")
FIRST_STEP = """
import sys, time
from benchmarks.recipe import CONFIG, noise
from cifar_resnet.network import device
from cifar_resnet.training.state import new_state
from cifar_resnet.training.loop import fit
device.make_deterministic(True)
target = device.select_device("auto")
config = CONFIG.model_copy(update={"batch_size": 256 if target.type == "cuda" else 32})
data = noise(2 * config.batch_size, target)
state, dtype = new_state(config, 10, target), device.autocast_dtype("auto", target)
loop = fit(state, config, data, data, dtype, sys.argv[1] == "compiled")
started = time.perf_counter()
next(loop)[0].totals.tolist()
print(time.perf_counter() - started)
"""


def median_seconds(command: list[str], folder: Path, environment: dict[str, str]) -> list[float]:
    """Run a command six times and return the seconds of all but the first."""
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def first_step(kind: str, cache: Path) -> float:
    """Return the seconds that a new process needs for the first training step, compiled or not."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", FIRST_STEP, kind]
    done = subprocess.run(command, cwd=scratch.ROOT, env=environment, check=True, capture_output=True)
    return float(done.stdout)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = folder / "bare"
        bare.mkdir()
        scratch.git(bare, "init", "--quiet")
        clone = Clone(folder / "clone", folder / "cache")
        subprocess.run(["dvc", "init", "--quiet"], cwd=bare, env=clone.environment, check=True)
        (bare / "dvc.yaml").write_text("stages: {one: {cmd: 'true'}}\n")
        for place in (bare, clone.folder):
            subprocess.run(
                ["dvc", "repro"], cwd=place, env=clone.environment, check=True, capture_output=True
            )
        python = str(Path(sys.executable))
        commands = {"python -c pass": ([python, "-c", "pass"], clone.folder)}
        for stage in STAGES:
            usage = [python, "-m", f"stages.{stage}", "--help"]
            commands[f"python -m stages.{stage} --help"] = (usage, clone.folder)
        commands["dvc repro, a repository of one empty stage"] = (["dvc", "repro"], bare)
        commands["dvc repro, this one, up to date"] = (["dvc", "repro"], clone.folder)
        commands["dvc status, this one"] = (["dvc", "status"], clone.folder)
        rows: list[Row] = []
        for what, (command, place) in commands.items():
            seconds = median_seconds(command, place, clone.environment)
            rows.append(
                {
                    "what": what,
                    "seconds": statistics.median(seconds),
                    "lowest": min(seconds),
                    "highest": max(seconds),
                }
            )
        for what, kind in {
            "first step of ResNet50, not compiled": "eager",
            "first step of ResNet50, compiled for the first time": "compiled",
            "first step of ResNet50, compiled code kept": "compiled",
        }.items():
            seconds = [first_step(kind, folder / "compiled")]
            rows.append({"what": what, "seconds": seconds[0], "lowest": seconds[0], "highest": seconds[0]})
    report("start_up", "medians of 5 runs; the first step once, in a new process", rows)


if __name__ == "__main__":
    main()
