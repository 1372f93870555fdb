"""No GPU for two: the locks with made-up GPUs, and what is asked of PyTorch."""

import os
import signal
import time
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda, device
from cifar_resnet.process import gpus
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


@pytest.mark.parametrize(("count", "processes"), [(1, 4), (2, 2)])
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


def test_a_killed_process_gives_its_gpu_back(tmp_path: Path) -> None:
    first = start(tmp_path, ["GPU-a"], 1, 600)
    while not list(tmp_path.glob("has-*")):
        assert first.is_alive()
        time.sleep(0.01)
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
    monkeypatch.setattr(cuda, "check_code", lambda _: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv(gpus.SHARE, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return current


def test_a_run_takes_the_gpu_that_is_free(two_gpus: list[int]) -> None:
    gpus.reserve(["GPU-uuid-0"], 1)
    assert gpus.take("auto") == torch.device("cuda", 1)
    assert two_gpus == [1]


@pytest.mark.parametrize(("variable", "number"), [("LOCAL_RANK", 1), (gpus.SHARE, 0)])
def test_a_process_of_a_launcher_takes_its_own_and_sharing_has_to_be_asked_for(
    variable: str, number: int, two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert gpus.take("auto") == gpus.take("cuda") == torch.device("cuda", number)


def test_children_see_the_reserved_gpus(two_gpus: list[int]) -> None:
    with pytest.raises(ValueError, match=r"train\.processes 3 needs as many GPUs, and PyTorch sees 2 here"):
        gpus.take_several("auto", 3)
    assert gpus.take_several("auto", 2) == torch.device("cuda")
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0,1"


MIG = ["MIG-11c2c30c-0000", "MIG-f3b1f7d2-0000"]


@pytest.mark.parametrize(
    ("visible", "first", "children"), [("3,5", "GPU-uuid-0", "5"), (",".join(MIG), MIG[0], MIG[1])]
)
def test_children_get_a_gpu_by_the_name_it_was_given_by(
    visible: str, first: str, children: str, two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus.reserve([first], 1)
    gpus.take_several("auto", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == children


def test_a_gpu_without_a_uuid_or_with_an_odd_one_can_be_taken(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = [SimpleNamespace(), SimpleNamespace(uuid="b'\\x00/..'")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert gpus.take("cuda") == torch.device("cuda", 0)
    assert gpus.take("cuda") == torch.device("cuda", 1)


def test_a_gpu_without_code_is_refused_when_it_is_taken(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: torch.device) -> None:
        raise UserError(f"no code for {target}")

    monkeypatch.setattr(cuda, "check_code", refuse)
    with pytest.raises(UserError, match="no code for cuda:0"):
        gpus.take("auto")
    assert two_gpus == []


def test_without_a_gpu_nothing_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CACHE", tmp_path)
    assert gpus.take("cpu") == torch.device("cpu")
    assert not list(tmp_path.iterdir())
