"""No GPU for two: the locks with made-up GPUs, and what is asked of PyTorch."""

import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda, device
from cifar_resnet.process import gpus
from tests.conftest import FORK


def hold(cache: Path) -> None:
    """Reserve the only GPU and keep it."""
    files.CACHE = cache
    gpus.SECONDS = 0.02
    gpus.reserve(["GPU-a"], 1)
    (cache / f"has-{os.getpid()}").touch()
    time.sleep(600)


def started(cache: Path) -> BaseProcess:
    process = FORK.Process(target=hold, args=(cache,))
    process.start()
    return process


def wait_for_gpu(process: BaseProcess, cache: Path) -> None:
    deadline = time.monotonic() + 60
    while not (cache / f"has-{process.pid}").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_two_processes_have_the_same_gpu_and_a_killed_one_gives_it_back(tmp_path: Path) -> None:
    first = started(tmp_path)
    wait_for_gpu(first, tmp_path)
    second = started(tmp_path)
    time.sleep(0.3)
    assert second.is_alive()
    assert not (tmp_path / f"has-{second.pid}").exists()
    first.kill()
    wait_for_gpu(second, tmp_path)
    second.kill()


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
    assert gpus.reserve(["GPU-a", "GPU-b", "GPU-c"], 2) == ["GPU-a", "GPU-b"]
    assert gpus.reserve(["GPU-a", "GPU-b", "GPU-c"], 1) == ["GPU-c"]
    gpus.reserve(["GPU-uuid-0"], 1)
    assert gpus.take("auto") == torch.device("cuda", 1)
    assert two_gpus == [1]


def test_a_process_of_a_launcher_takes_its_own_and_sharing_has_to_be_asked_for(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, number in ((gpus.SHARE, 0), ("LOCAL_RANK", 1)):
        monkeypatch.setenv(variable, "1")
        assert gpus.take("auto") == gpus.take("cuda") == torch.device("cuda", number)


def test_children_see_the_reserved_gpus(two_gpus: list[int]) -> None:
    with pytest.raises(ValueError, match=r"train\.processes 3 needs as many GPUs, and PyTorch sees 2 here"):
        gpus.take_several("auto", 3)
    assert gpus.take_several("auto", 2) == torch.device("cuda")
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0,1"


@pytest.mark.parametrize(
    ("visible", "first", "children"),
    [("3,5", "GPU-uuid-0", "5"), ("MIG-11-0,MIG-f3-0", "MIG-11-0", "MIG-f3-0")],
)
def test_children_get_a_gpu_by_the_name_it_was_given_by(
    visible: str, first: str, children: str, two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus.reserve([first], 1)
    gpus.take_several("auto", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == children


def test_a_gpu_without_code_is_refused_when_it_is_taken(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "check_code", mock.Mock(side_effect=UserError("no code")))
    with pytest.raises(UserError, match="no code"):
        gpus.take("auto")
    assert two_gpus == []
