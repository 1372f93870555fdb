"""Several processes of the train stage on this machine, through the launcher of `torchrun`."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cifar_resnet import numerics
from cifar_resnet.errors import ParamsError, UserError
from cifar_resnet.process import command
from cifar_resnet.training.distributed import world

PROCESSES = "WORLD_SIZE"  # in the environment of a process that a launcher started
RANK = "RANK"


def must_start(processes: int) -> bool:
    """Return whether this process has to start the others. Raises ParamsError at another number."""
    started = os.environ.get(PROCESSES)
    if started is None:
        return processes > 1
    if started != str(processes):
        raise ParamsError(f"train.processes is {processes}, the launcher started {started}: make them equal")
    if os.environ.get(RANK, "0") != "0":
        sys.stdout = None  # print does nothing then
    return False


def start_processes(processes: int, name: numerics.Device) -> None:
    """Run the stage in `processes` processes until all have ended; end with their status when one failed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    device = numerics.share(name, processes)
    logging.disable(logging.ERROR)  # of the launcher: what there is to say, we say
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first_failure"
        # The first process speaks to the terminal; what PyTorch says in the others is of no use.
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
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=silent),
        )
        os.environ[command.FIRST_FAILURE] = str(first)
        try:
            elastic_launch(config, sys.executable)("-m", "stages.train", *sys.argv[1:])
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            status = _status(failed.failures, processes, device, first)
            raise SystemExit(status) from None
        finally:
            del os.environ[command.FIRST_FAILURE]


@contextmanager
def join(processes: int, device: torch.device) -> Iterator[world.World]:
    """Meet the other processes; tell the launcher of a failure before they notice that this one is gone."""
    with world.join(processes, device) as joined:
        try:
            yield joined
        except Exception as error:
            command.record(error)
            raise


def _status(failed: Mapping[int, Any], processes: int, device: torch.device, first: Path) -> int:
    """Say why the first process that failed did so; return the status to end with.

    `failed`: PyTorch's ProcessFailure by rank. A process that raises has recorded it in `first`, whether it
    came first or has lost another one (for which Gloo has no class). So one that a signal ended came before
    all records; the launcher ends the others by SIGTERM, NCCL one that has waited too long by SIGABRT.
    """
    consequences = {1, -signal.SIGTERM} | ({-signal.SIGABRT} if device.type == "cuda" else set())
    times = {rank: failure.timestamp for rank, failure in failed.items()}  # seconds, when it was noticed
    earliest = min(times.values()) + 1
    causes = [r for r, f in failed.items() if f.exitcode not in consequences and times[r] <= earliest]
    if first.exists() and not causes:
        print(first.read_text(), end="", file=sys.stderr)
        return 1
    rank = min(causes or failed, key=lambda rank: times[rank])
    status: int = failed[rank].exitcode
    if status >= 0:
        return status
    raise UserError(
        f"process {rank} of {processes} was ended by {signal.Signals(-status).name}, so the others"
        " stopped; `dvc repro` goes on from the last checkpoint"
    )
