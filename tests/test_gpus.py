"""No GPU for two: the locks with made-up GPUs, and what is asked of PyTorch."""

import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cifar_resnet import device
from stages import files, gpus
from tests.conftest import FORK

SECONDS = 0.3  # that a process keeps its GPUs


def hold(cache: Path, names: list[str], count: int, seconds: float) -> None:
    """Reserve, write down when which ones were held, end."""
    files.CACHE = cache
    gpus.SECONDS = 0.02
    found = gpus.reserve(names, count)
    start = time.monotonic()
    (cache / f"has-{os.getpid()}").touch()
    time.sleep(seconds)
    lines = [f"{name} {start} {time.monotonic()}\n" for name in found]
    (cache / f"held-{os.getpid()}").write_text("".join(lines))


def start(*arguments: object) -> BaseProcess:
    process = FORK.Process(target=hold, args=arguments)
    process.start()
    return process


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("count", "processes"), [(1, 7), (2, 5)])
def test_no_two_processes_have_the_same_gpu(count: int, processes: int, tmp_path: Path) -> None:
    names = ["GPU-a", "GPU-b", "GPU-c"]
    started = [start(tmp_path, names, count, SECONDS) for _ in range(processes)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    held = [line.split() for path in tmp_path.glob("held-*") for line in path.read_text().splitlines()]
    assert len(held) == count * processes
    for name in names:
        times = sorted((float(begin), float(end)) for gpu, begin, end in held if gpu == name)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times)), name
    assert {gpu for gpu, _, _ in held} == set(names) or count == 2


def test_a_killed_process_gives_its_gpu_back(tmp_path: Path) -> None:
    first = start(tmp_path, ["GPU-a"], 1, 600)
    wait_for(lambda: list(tmp_path.glob("has-*")))
    second = start(tmp_path, ["GPU-a"], 1, 0)
    time.sleep(SECONDS)
    assert second.is_alive()
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    second.join(60)
    assert second.exitcode == 0


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """PyTorch as if there were two; the numbers that were made current."""
    current: list[int] = []
    monkeypatch.setattr(files, "CACHE", tmp_path)
    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setattr(device, "select_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"uuid-{number}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv(gpus.SHARE, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return current


def test_a_run_takes_the_gpu_that_is_free(two_gpus: list[int], tmp_path: Path) -> None:
    other = start(tmp_path, ["GPU-uuid-0"], 1, 600)
    wait_for(lambda: list(tmp_path.glob("has-*")))
    assert gpus.take("auto") == torch.device("cuda", 1)
    assert two_gpus == [1]
    other.kill()
    other.join()


def test_a_process_of_a_launcher_takes_its_own(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpus.take("auto") == gpus.take("cuda") == torch.device("cuda", 1)


def test_sharing_has_to_be_asked_for(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.SHARE, "1")
    assert gpus.take("auto") == gpus.take("auto") == torch.device("cuda", 0)


def test_children_see_the_reserved_gpus(two_gpus: list[int]) -> None:
    with pytest.raises(ValueError, match=r"train\.processes 3 needs as many GPUs, and PyTorch sees 2 here"):
        gpus.take_several("auto", 3)
    gpus.take_several("auto", 2)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "GPU-uuid-0,GPU-uuid-1"


def test_without_a_gpu_nothing_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CACHE", tmp_path)
    assert gpus.take("cpu") == torch.device("cpu")
    assert not list(tmp_path.iterdir())
