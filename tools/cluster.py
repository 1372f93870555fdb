"""Experiments as jobs of a cluster, through submitit: Slurm's, or processes of this machine.

A job that is preempted or reaches its time limit saves its state, is queued again, and goes on to the same
bits.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from tools.experiment import Experiment

LOGS = "logs/cluster/%j"
SAVING_SECONDS = 120  # between the signal and the end of a job


class Job:
    """An experiment as a job."""

    def __init__(self, experiment: Experiment) -> None:
        # Slurm sends submitit's signal to all processes of a job; those of DVC leave it to `checkpoint`.
        wrapper = ("env", f"--ignore-signal={submitit.JobEnvironment.USR_SIG}")
        self.experiment = replace(experiment, wrapper=wrapper)

    def __call__(self) -> Path | None:
        """Run it; return the file that says why it failed."""
        return self.experiment.run()

    def checkpoint(self) -> DelayedSubmission:
        """Stop when the state is saved; return what is to be queued again."""
        self.experiment.stop()
        if process := self.experiment.process:
            # Not `wait`, which the signal has interrupted and which still holds its lock.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(replace(self.experiment, process=None, stopping=False)))


def run(
    experiments: dict[Experiment, int], cluster: str, hours: float, partition: str | None
) -> Iterator[tuple[Experiment, Path | None]]:
    """Submit experiments, each with its number of GPUs; yield each when it has ended, and why it failed.

    `cluster`: slurm, or local, which is this machine; `hours`: the time limit of a job.
    """
    executor = submitit.AutoExecutor(folder=LOGS, cluster=cluster)
    jobs = {}
    for experiment, gpus in experiments.items():
        executor.update_parameters(
            name=experiment.name,
            timeout_min=60 * hours,
            gpus_per_node=gpus,
            slurm_signal_delay_s=SAVING_SECONDS,
            **({"slurm_partition": partition} if partition else {}),
        )
        job = jobs[experiment] = executor.submit(Job(experiment))
        print(f"{experiment.name}: job {job.job_id}", flush=True)
    for experiment, job in jobs.items():
        # An exception is of the job itself, not of the experiment.
        yield experiment, job.paths.stderr if job.exception() else job.result()
