"""Images per second of ResNet50 in one and in several processes, with the same global batch."""

import os
import subprocess
import sys
import time

import torch

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, synchronize
from cifar_resnet.network import device
from cifar_resnet.process import gpus
from cifar_resnet.training.distributed import world
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state

STEPS = {"cpu": 2, "cuda": 100}


def worker(processes: int) -> None:
    """Train a few steps and print the images per second of all processes."""
    device.make_deterministic(True)
    target = gpus.take("auto")
    batch, steps = CONFIG.batch_size, STEPS[target.type]
    config = CONFIG.model_copy(update={"processes": processes})
    data, dtype = noise((steps + 3) * batch, target), device.autocast_dtype("auto", target)
    with world.join(processes, target) as joined:
        loop = fit(new_state(config, 10, target), config, data, data, dtype, world=joined)
        for _ in range(2):
            next(loop)
        synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            next(loop)
        synchronize()
        if joined.rank == 0:
            print(steps * batch / (time.perf_counter() - started))


def speed(processes: int, threads: int) -> float:
    """Return the images per second of `processes` with `threads` each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "benchmarks.scaling", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and report."""
    kind = device.select_device("auto").type
    counts = [(1, 1), (2, 1), (1, 2)]
    if kind == "cuda":
        counts = [(n, 1) for n in (1, 2, 4, 8) if n <= torch.cuda.device_count()]
    rows: list[Row] = []
    for processes, threads in counts:
        found = speed(processes, threads)
        first = rows[0]["images/s"] if rows else found
        rows.append(
            {
                "processes": str(processes),
                "threads each": str(threads),
                "images/s": found,
                "ratio": found / first,
            }
        )
    report("scaling", f"global batch {CONFIG.batch_size}, not compiled, deterministic", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(int(sys.argv[1]))
    else:
        main()
