"""The train stage in several processes: started by itself or by torchrun, stopped, killed, used wrongly."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_resnet.files.params import UserError
from cifar_resnet.process import launch
from tests.conftest import Clone
from tests.process.test_resume import OUTPUTS

pytestmark = pytest.mark.slow
TWO = {"train": {"processes": 2}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, dict[str, bytes]]:
    """A clone that has trained in two processes, through DVC, and what came out."""
    folder = tmp_path_factory.mktemp("two")
    clone = Clone(folder / "clone", folder / "cache", TWO)
    printed = clone.dvc("repro", "train")
    assert re.findall(r"^epoch (\d)/3", printed, re.MULTILINE) == ["1", "2", "3"], "one process speaks"
    (kept,) = (clone.cache / "cifar-resnet/resume").iterdir()
    assert (kept / "done.json").exists()
    shutil.rmtree(kept)
    return clone, {path: clone.read(path) for path in OUTPUTS}


def outputs(clone: Clone) -> dict[str, bytes]:
    return {path: clone.read(path) for path in OUTPUTS}


def test_torchrun_on_two_hosts_without_a_common_folder_gives_the_same_bits(
    two: tuple[Clone, dict[str, bytes]], tmp_path: Path
) -> None:
    """As docs/scale.md says; the second one has code, params and tensors, and writes nothing."""
    clone, expected = two
    first, second = clone.copy(tmp_path / "first"), clone.copy(tmp_path / "second")
    first.cache, second.cache = tmp_path / "first-cache", tmp_path / "second-cache"
    for host in (first, second):
        shutil.rmtree(host.folder / "models")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    other = second.start("torchrun", *flags, "--node-rank", "1", "-m", "stages.train")
    first.run("torchrun", *flags, "--node-rank", "0", "-m", "stages.train")
    printed, _ = other.communicate(timeout=60)
    assert other.returncode == 0, printed
    assert not (second.folder / "models").exists()
    assert not (second.cache / "cifar-resnet/resume").exists()
    assert outputs(first) == expected


def test_another_number_of_processes_than_params_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.PROCESSES, "3")
    with pytest.raises(UserError, match=r"train\.processes is 2, but the launcher started 3"):
        launch.is_launcher(2)


def children(pid: int) -> list[int]:
    """The worker processes of a launcher, that of rank 0 first."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks: dict[int, int] = {}
    for child in map(int, found):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(entry[5:]): child for entry in environment if entry.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.fixture
def running(two: tuple[Clone, dict[str, bytes]]) -> Iterator["subprocess.Popen[str]"]:
    """The stage after its first save."""
    clone, _ = two
    stage = clone.start("python", "-m", "stages.train")
    clone.saved(stage)
    yield stage
    stage.kill()


def ended(stage: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """The status of the stage and what it printed, its lines about epochs and resuming left out."""
    printed = stage.communicate(timeout=60)[0]
    lines = [line for line in printed.splitlines() if not re.match("epoch|resuming|training on", line)]
    return stage.returncode, lines


def test_the_death_of_a_process_ends_the_others_in_one_line(
    two: tuple[Clone, dict[str, bytes]], running: "subprocess.Popen[str]"
) -> None:
    clone, expected = two
    workers = children(running.pid)
    os.kill(workers[1], signal.SIGKILL)
    status, lines = ended(running)
    assert status == 1
    assert lines == [
        "error: process 1 of 2 was ended by SIGKILL, so the others stopped;"
        " `dvc repro` goes on from the last saved state"
    ]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert "resuming this run after" in clone.stage("train")
    assert outputs(clone) == expected


@pytest.mark.parametrize("whom", ["launcher", "second"])
def test_a_signal_to_any_process_saves_and_stops_all(
    whom: str, two: tuple[Clone, dict[str, bytes]], running: "subprocess.Popen[str]"
) -> None:
    clone, expected = two
    workers = children(running.pid)
    os.kill(running.pid if whom == "launcher" else workers[1], signal.SIGTERM)
    status, lines = ended(running)
    assert status == 128 + signal.SIGTERM
    assert lines == ["SIGTERM: saving the state and stopping; once more stops at once"]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert "resuming this run after" in clone.stage("train")
    assert outputs(clone) == expected
