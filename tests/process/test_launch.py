"""The train stage in several processes: started by itself or by torchrun, stopped, killed, used wrongly."""

import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from cifar_resnet.errors import UserError
from cifar_resnet.process import launch
from tests.conftest import OUTPUTS, Clone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, dict[str, bytes]]:
    """A clone that has trained in two processes, through DVC, and what came out."""
    clone = Clone.make(tmp_path_factory.mktemp("two"))
    clone.change({"train": {"processes": 2}})
    printed = clone.dvc("repro", "train")
    assert re.findall(r"^epoch (\d)/3", printed, re.MULTILINE) == ["1", "2", "3"], "one process speaks"
    (kept,) = (clone.cache / "cifar-resnet/resume").iterdir()
    assert (kept / "done.json").exists()
    shutil.rmtree(kept)
    return clone, {path: clone.read(path) for path in OUTPUTS}


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
    assert {path: first.read(path) for path in OUTPUTS} == expected


def test_another_number_of_processes_than_params_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.PROCESSES, "3")
    with pytest.raises(UserError, match=r"train\.processes is 2, the launcher started 3"):
        launch.must_start(2)


def children(pid: int) -> list[int]:
    """The worker processes of a launcher, that of rank 0 first."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks: dict[int, int] = {}
    for child in map(int, found):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(entry[5:]): child for entry in environment if entry.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


STOPPING = "SIGTERM: saving a checkpoint and stopping; once more stops at once"
DIED = "error: process 1 of 2 was ended by SIGKILL, so the others stopped; `dvc repro` goes on from the last"


@pytest.mark.parametrize(
    ("whom", "number", "status", "told"),
    [
        ("launcher", signal.SIGTERM, 128 + signal.SIGTERM, STOPPING),
        ("second", signal.SIGTERM, 128 + signal.SIGTERM, STOPPING),
        ("second", signal.SIGKILL, 1, f"{DIED} checkpoint"),
    ],
)
def test_a_signal_to_any_process_ends_all_in_one_line_and_the_next_run_goes_on(
    whom: str, number: int, status: int, told: str, two: tuple[Clone, dict[str, bytes]]
) -> None:
    clone, expected = two
    with clone.start("python", "-m", "stages.train") as stage:
        clone.saved(stage)
        workers = children(stage.pid)
        os.kill(stage.pid if whom == "launcher" else workers[1], number)
        printed = stage.communicate(timeout=60)[0].splitlines()
    assert stage.returncode == status
    assert [line for line in printed if not re.match("epoch|resuming|training on", line)] == [told]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert "resuming this run after" in clone.stage("train")
    assert {path: clone.read(path) for path in OUTPUTS} == expected
