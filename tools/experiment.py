"""One run of a recipe: `dvc exp run --temp` in a clone of its own, brought back as an experiment of ours.

Why a clone: `dvc exp run --temp` hands its work over through one Git stash of the repository, and takes the
newest entry of it outside of DVC's lock (DVC 3.67, repo/experiments/queue/tempdir.py). Of runs that start or
end at the same time some are refused the lock after three seconds, and some can take each other's entry.
Clones share Git's objects and DVC's cache, but no lock.
"""

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dvc.config import Config
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo

from tools.scratch import git

LOGS = Path("logs/sweep")


@dataclass(frozen=True)
class Baseline:
    """What all runs of a sweep start from.

    `folder`: this clone; `commit`: what is checked out; `edits`: a stash commit of the files that differ from
    it, or nothing; `cache`: DVC's, which the runs share.
    """

    folder: Path
    commit: str
    edits: str
    cache: str

    @property
    def name(self) -> str:
        """The commit, with `-dirty` when files that Git tracks differ from it."""
        return self.commit + ("-dirty" if self.edits else "")


def baseline() -> Baseline:
    """Return what a run that starts now in the working folder starts from."""
    here = Path.cwd()
    with Repo() as repo:
        cache = str(Path(repo.cache.local_cache_dir).resolve())
    return Baseline(here, git(here, "rev-parse", "HEAD").strip(), git(here, "stash", "create").strip(), cache)


@dataclass(eq=False)
class Experiment:
    """A run to be.

    `settings`: NAME=VALUE for `--set-param`; `targets`: stages, none for all of them; `wrapper`: words that
    go before DVC's command.
    """

    name: str
    settings: list[str]
    targets: list[str]
    start: Baseline
    wrapper: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    stopping: bool = False

    @property
    def ref(self) -> str:
        """The Git ref under which DVC finds the experiment."""
        return str(ExpRefInfo(self.start.commit, self.name))

    @property
    def logs(self) -> Path:
        """The folder of what the run prints and of what train notes (train.jsonl)."""
        return self.start.folder / LOGS / self.name

    @property
    def console(self) -> Path:
        """What the run prints."""
        return self.logs / "console.log"

    def run(self) -> int:
        """Run it and return DVC's exit status; after 0 the experiment is one of this clone's."""
        temporary = self.start.folder / ".dvc/tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f"sweep-{self.name}-", dir=temporary) as clone,
            self.console.open("ab") as console,
        ):
            self._clone(Path(clone))
            set_params = [f"--set-param={setting}" for setting in self.settings]
            command = ["exp", "run", "--temp", "--name", self.name, *set_params, *self.targets]
            self.process = subprocess.Popen(
                [*self.wrapper, "dvc", *command],
                cwd=clone,
                env=os.environ | self._environment(Path(clone)),
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # signals reach it through `stop` alone
            )
            if self.stopping:  # asked between the two
                self.stop()
            status = self.process.wait()
            if status == 0:
                self._bring_back(clone)
        return status

    def stop(self) -> None:
        """Ask the run to save its state and end; from another thread or a signal handler."""
        self.stopping = True
        if self.process and self.process.returncode is None:
            try:
                os.killpg(self.process.pid, signal.SIGINT)
            except ProcessLookupError:
                return  # it has ended

    def _environment(self, clone: Path) -> dict[str, str]:
        """A log folder of its own, and the library as it is in `clone`, whatever is edited here meanwhile."""
        path = os.pathsep.join([str(clone / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"CIFAR_RESNET_LOGS": str(self.logs), "PYTHONPATH": path}

    def _clone(self, folder: Path) -> None:
        here, there = self.start.folder, folder
        git(here, "clone", "--quiet", "--shared", "--no-checkout", str(here), str(there))
        git(there, "checkout", "--quiet", "--detach", self.start.commit)
        if self.start.edits:
            git(there, "stash", "apply", "--quiet", self.start.edits)
        local = here / ".dvc/config.local"  # the keys of remotes
        if local.exists():
            (there / ".dvc/config.local").write_bytes(local.read_bytes())
        with Config(str(there / ".dvc")).edit("local") as config:
            config.setdefault("cache", {})["dir"] = self.start.cache

    def _bring_back(self, clone: str) -> None:
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        git(self.start.folder, "fetch", *quiet, clone, f"+{self.ref}:{self.ref}")

    def show(self, path: str) -> str:
        """Return a file of the finished experiment that Git tracks."""
        return git(self.start.folder, "show", f"{self.ref}:{path}")
