"""GPUs that cannot be used, with stand-ins for the driver and for what PyTorch says of the GPU."""

from pathlib import Path

import pytest
import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120a", "compute_120"]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with an NVIDIA GPU, a good driver and a PyTorch for CUDA 13.2, which finds no GPU."""
    control = tmp_path / "nvidiactl"
    control.touch()
    monkeypatch.setattr(cuda, "CONTROL", control)
    monkeypatch.setattr(cuda, "driver_version", lambda: 13020)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_here_there_is_no_driver_or_one_with_a_version() -> None:
    version = cuda.driver_version()
    assert version is None or version > 1000


def test_a_missing_driver_is_named(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(cuda, "driver_version", lambda: None)
    with pytest.raises(UserError, match=r"no driver that PyTorch can load .*https://www.nvidia.com/drivers"):
        cuda.check_driver()


def test_a_driver_that_is_too_old_is_named_with_what_to_install(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(cuda, "driver_version", lambda: 12090)
    told = r"a driver for CUDA 12\.9, and PyTorch \S+ needs one for CUDA 13; install .* set device to cpu$"
    with pytest.raises(UserError, match=told):
        cuda.check_driver()


def test_a_driver_of_the_same_cuda_is_no_problem_but_no_gpu_is(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(cuda, "driver_version", lambda: 13000)
    with pytest.raises(
        UserError, match="PyTorch finds no GPU; `nvidia-smi` says what is wrong; or set device"
    ):
        cuda.check_driver()


def test_hidden_gpus_other_builds_and_machines_without_one_are_no_error(
    gpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.setenv("CUDA_VISIBLE_DEVICES", "")
    cuda.check_driver()
    gpu.setattr(cuda, "driver_version", lambda: None)
    gpu.setattr(torch.version, "cuda", None)
    cuda.check_driver()
    gpu.setattr(torch.version, "cuda", "13.2")
    gpu.setattr(cuda, "CONTROL", tmp_path / "absent")
    cuda.check_driver()


@pytest.mark.parametrize(
    ("capability", "known"),
    [
        ((7, 0), False),
        ((8, 9), True),  # by the code for 8.6
        ((11, 0), False),
        ((13, 0), True),  # by PTX
    ],
)
def test_a_gpu_without_code_is_named_before_anything_runs(
    capability: tuple[int, int], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100")
    if known:
        cuda.check_code(torch.device("cuda", 0))
        return
    told = (
        rf"no code for the Tesla P100 \(compute capability {capability[0]}\.{capability[1]}\).* sm_75, .*cpu$"
    )
    with pytest.raises(UserError, match=told):
        cuda.check_code(torch.device("cuda", 0))
