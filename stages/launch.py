"""Several processes of the train stage on this machine, through the launcher of `torchrun`."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cifar_resnet import device, distributed
from stages import gpus

LOST = 75  # exit status of a process that ends because another one did
PROCESSES = "WORLD_SIZE"  # in the environment of a process that a launcher started
RANK = "RANK"


def is_launcher(processes: int) -> bool:
    """Return whether this process has to start the others. Raises ValueError when there are more or fewer."""
    started = os.environ.get(PROCESSES)
    if started is None:
        return processes > 1
    if int(started) != processes:
        raise ValueError(
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

    gpus.take_several(name, processes)
    logging.disable(logging.ERROR)  # of the launcher: what there is to say, we say
    with tempfile.TemporaryDirectory() as folder:
        # The first process speaks to the terminal; what the others have to say is read when one fails.
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
        try:
            elastic_launch(config, sys.executable)("-m", "stages.train", *sys.argv[1:])
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            statuses = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            raise SystemExit(_report(statuses, processes, Path(folder))) from None


@contextmanager
def join(processes: int, target: torch.device) -> Iterator[distributed.World]:
    """Meet the other processes; when one is lost, end without a word: whoever started them has it."""
    try:
        with distributed.join(processes, target) as world:
            yield world
    except distributed.PeerLostError:
        raise SystemExit(LOST) from None


def _report(statuses: dict[int, int], processes: int, folder: Path) -> int:
    """Say why the processes of `statuses` failed, if the first one has not; return the status to end with."""
    consequences = (LOST, -signal.SIGTERM)  # of the death of another
    causes = {rank: status for rank, status in statuses.items() if status not in consequences} or statuses
    rank, status = min(causes.items())
    if status < 0:
        raise ValueError(
            f"process {rank} of {processes} was ended by {signal.Signals(-status).name}, so the others"
            " stopped; `dvc repro` goes on from the last saved state"
        )
    if rank:
        for path in folder.rglob(f"{rank}/stderr.log"):
            print(path.read_text(), end="", file=sys.stderr)
    return status
