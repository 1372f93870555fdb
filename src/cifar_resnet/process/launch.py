"""Several processes of the train stage on this machine, through the launcher of `torchrun`."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.network import device
from cifar_resnet.process import failures, gpus
from cifar_resnet.training.distributed import world

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

PROCESSES = "WORLD_SIZE"  # in the environment of a process that a launcher started
RANK = "RANK"


def is_launcher(processes: int) -> bool:
    """Return whether this process has to start the others. Raises UserError when there are more or fewer."""
    started = os.environ.get(PROCESSES)
    if started is None:
        return processes > 1
    if int(started) != processes:
        raise UserError(
            f"train.processes is {processes}, but the launcher started {started}: the number is recorded with"
            " the result, so set it in params.yaml"
        )
    if os.environ.get(RANK, "0") != "0":
        sys.stdout = None  # print does nothing then
    return False


def start(processes: int, name: device.Device) -> None:
    """Run the stage in `processes` processes until all have ended; end with their status when one failed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    target = gpus.take_several(name, processes)
    logging.disable(logging.ERROR)  # of the launcher: what there is to say, we say
    with failures.collected() as folder:
        # The first process speaks to the terminal; what PyTorch says in the others is read when one fails.
        silent = dict.fromkeys(range(1, processes), Std.ERR)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="train",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=silent),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "stages.train", *sys.argv[1:])
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            raise SystemExit(_report(failed.failures, processes, target, folder)) from None


@contextmanager
def join(processes: int, target: torch.device) -> Iterator[world.World]:
    """Meet the other processes; tell the launcher of a failure before they notice that this one is gone."""
    with world.join(processes, target) as joined:
        try:
            yield joined
        except Exception as error:
            failures.record(error)
            raise


def _report(
    failed: Mapping[int, "ProcessFailure"], processes: int, target: torch.device, folder: Path
) -> int:
    """Say why the first process that failed did so; return the status to end with.

    `failed`: by rank. A process that raises has recorded it in `folder`, whether it came first or has lost
    another one (for which Gloo has no class). So one that ended in another way came before all records.
    """
    # By SIGTERM the launcher ends the others, by SIGABRT NCCL a process that has waited too long for another.
    consequences = {1, -signal.SIGTERM} | ({-signal.SIGABRT} if target.type == "cuda" else set())
    times = {rank: failure.timestamp for rank, failure in failed.items()}  # seconds, when it was noticed
    earliest = min(times.values()) + 1
    causes = [r for r, f in failed.items() if f.exitcode not in consequences and times[r] <= earliest]
    told = failures.first(folder)
    if told and not causes:
        print(told, end="", file=sys.stderr)
        return 1
    rank = min(causes or failed, key=lambda rank: times[rank])
    status = failed[rank].exitcode
    if rank:
        for path in folder.rglob(f"{rank}/stderr.log"):
            print(path.read_text(), end="", file=sys.stderr)
    if status < 0:
        raise UserError(
            f"process {rank} of {processes} was ended by {signal.Signals(-status).name}, so the others"
            " stopped; `dvc repro` goes on from the last saved state"
        )
    return status
