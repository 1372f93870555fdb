"""Run recipes as Slurm jobs, one for each seed, and write what came out as `tools.sweep` does.

Submit from a clone that the nodes see too, with this Python. A job that is preempted or reaches its time
limit saves its state, is queued again and goes on to the same bits.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import submitit
from ruamel.yaml import YAML
from submitit.helpers import DelayedSubmission

from tools import machine, sweep

LOGS = Path("logs/cluster")
SAVING_SECONDS = 120  # between the signal and the end of a job


class Experiment:
    """A DVC experiment as a job: `dvc exp run --temp`, which works in a folder of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self.command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", *arguments]
        self.folder = Path.cwd()
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> dict[str, Any]:
        """Run it; return what it ran on. Raises CalledProcessError when it fails."""
        # Slurm sends submitit's signal to all processes of a job: those of DVC leave it to `checkpoint`.
        ignored = ["env", f"--ignore-signal={submitit.JobEnvironment.USR_SIG}"]
        self.process = subprocess.Popen([*ignored, *self.command], cwd=self.folder, start_new_session=True)
        if status := self.process.wait():
            raise subprocess.CalledProcessError(status, self.command)
        return machine.describe()

    def checkpoint(self) -> DelayedSubmission:
        """Stop as Ctrl-C does, when the state is saved; return what is to be queued again."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGINT)
            os.waitid(
                os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT
            )  # `wait` is busy: it was interrupted
            self.process = None
        return DelayedSubmission(self)


def processes(recipe: Path) -> int:
    """Return `train.processes` of a recipe: a job wants as many GPUs."""
    params = YAML(typ="safe").load(Path("params.yaml"))
    values: dict[str, Any] = sweep.overlaid(params, sweep.read_recipe(recipe))
    return int(values["train"]["processes"])


def main() -> None:
    """Submit, wait, tell."""
    options = sweep.parser("cluster", __doc__)
    options.add_argument("--hours", type=float, default=1, help="time limit of a job (default: %(default)s)")
    options.add_argument("--partition", help="Slurm's partition")
    options.add_argument("--cpu", action="store_true", help="ask for no GPU")
    options.add_argument("--cluster", choices=["slurm", "local"], default="slurm", help="local: this machine")
    arguments = options.parse_args()
    executor = submitit.AutoExecutor(folder=LOGS / "%j", cluster=arguments.cluster)
    at, jobs = sweep.commit(), {}
    groups = sweep.experiments(arguments.recipes, arguments.seeds, arguments.test)
    sweep.forget(name for runs in groups.values() for name in runs)
    for recipe, runs in groups.items():
        gpus = 0 if arguments.cpu else processes(recipe)
        executor.update_parameters(
            timeout_min=60 * arguments.hours,
            gpus_per_node=gpus,
            slurm_signal_delay_s=SAVING_SECONDS,
            **({"slurm_partition": arguments.partition} if arguments.partition else {}),
        )
        for name, words in runs.items():
            executor.update_parameters(name=name)
            jobs[name] = executor.submit(Experiment(["--name", name, *words]))
            print(f"{name}: job {jobs[name].job_id}, {jobs[name].paths.stdout}", flush=True)
    failed = [name for name, job in jobs.items() if job.exception()]
    if failed:
        sys.exit(
            f"error: {', '.join(failed)} failed; {jobs[failed[0]].paths.stderr} says why, and the same"
            " command again takes up what was stopped"
        )
    hardware = next(iter(jobs.values())).result()
    sweep.write(groups, at, arguments.test, hardware, lambda name: str(jobs[name].stdout()))


if __name__ == "__main__":
    main()
