"""One run of a recipe: `dvc exp run` in a clone of its own, brought back as an experiment of this one.

Several runs in one repository wait for each other's locks, `dvc exp run --temp` and DVC's queue too
(treeverse/dvc#5718, #10673). Clones share Git's objects and DVC's cache, but no lock.
"""

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dvc.repo import Repo

from cifar_resnet.errors import UserError
from tools.scratch import configure, git, isolate

LOGS = Path("logs/sweep")


class Baseline(NamedTuple):
    """What all runs of a sweep start from: this clone, its commit, a stash of edits or "", DVC's cache."""

    folder: Path
    commit: str
    stash: str
    cache: str


def baseline() -> Baseline:
    """Return what a run that starts now here starts from. Raises UserError where runs would lack code."""
    here = Path.cwd()
    if git(here, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise UserError("this clone is shallow, and a run needs a clone of it: `git fetch --unshallow` first")
    if new := git(here, "ls-files", "--others", "--exclude-standard", "src", "stages").split("\n")[0]:
        raise UserError(f"{new} is not in Git, so a run in a clone would lack it: `git add {new}` first")
    with Repo() as repo:
        cache = str(Path(repo.cache.local_cache_dir).resolve())
    git(here, "status")  # or a file that was touched, not changed, makes `stash create` fail
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
        return f"refs/exps/{self.start.commit[:2]}/{self.start.commit[2:]}/{self.name}"

    @property
    def logs(self) -> Path:
        """The folder of what the run prints and of what train notes (train.jsonl)."""
        return self.start.folder / LOGS / self.name

    def run(self, **environment: str) -> Path | None:
        """Run it; return the file that says why it failed, or None: then this clone has the experiment."""
        here, temporary = self.start.folder, self.start.folder / ".dvc/tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        console = self.logs / "console.log"
        with (
            tempfile.TemporaryDirectory(prefix=f"sweep-{self.name}-", dir=temporary) as clone,
            console.open("ab") as output,
        ):
            self._clone(Path(clone))
            set_params = [f"--set-param={setting}" for setting in self.settings]
            self.process = subprocess.Popen(
                [*self.wrapper, "dvc", "exp", "run", "--name", self.name, *set_params, *self.targets],
                cwd=clone,
                env={**os.environ, **environment, "CIFAR_RESNET_LOGS": str(self.logs)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # signals reach it through `stop` alone
            )
            if self.stopping:  # asked between the two
                self.stop()
            if self.process.wait():
                return console
            quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
            git(here, "fetch", *quiet, clone, f"+{self.ref}:{self.ref}")
        return None

    def stop(self) -> None:
        """Ask the run to save its state and end; from another thread or a signal handler."""
        self.stopping = True
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(self.process.pid, signal.SIGINT)

    def show(self, path: str) -> str:
        """Return a file of the finished experiment that Git tracks."""
        return git(self.start.folder, "show", f"{self.ref}:{path}")

    def _clone(self, clone: Path) -> None:
        here = self.start.folder
        git(here, "clone", "--quiet", "--shared", "--no-checkout", str(here), str(clone))
        isolate(clone)
        git(clone, "checkout", "--quiet", "--detach", self.start.commit)
        if self.start.stash:
            git(clone, "stash", "apply", "--quiet", self.start.stash)
        local = here / ".dvc/config.local"  # the keys of remotes
        if local.exists():
            (clone / ".dvc/config.local").write_bytes(local.read_bytes())
        configure(clone / ".dvc", "cache", "dir", self.start.cache)
