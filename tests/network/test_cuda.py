"""GPUs that cannot be used, with stand-ins for the driver and for what PyTorch says of the GPU."""

from pathlib import Path

import pytest
import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda

CUDA = torch.device("cuda", 0)
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


PROBLEMS = {
    None: r"no driver that PyTorch can load .*https://www.nvidia.com/drivers",
    12090: r"for CUDA 12\.9, and PyTorch \S+ needs one for CUDA 13; install .* set device to cpu$",
    13000: "PyTorch finds no GPU; `nvidia-smi` says what is wrong; or set device",
}


@pytest.mark.parametrize("version", PROBLEMS)
def test_what_is_wrong_with_a_driver_is_said_with_what_to_do(
    version: int | None, gpu: pytest.MonkeyPatch
) -> None:
    gpu.setattr(cuda, "driver_version", lambda: version)
    with pytest.raises(UserError, match=PROBLEMS[version]):
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


def test_a_gpu_without_code_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100")
    for known in ((8, 9), (13, 0)):  # by the code for 8.6, by PTX
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, known=known: known)
        cuda.check_code(CUDA)
    for major, minor in ((7, 0), (11, 0)):
        unknown = major, minor
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, unknown=unknown: unknown)
        told = rf"no code for the Tesla P100 \(compute capability {major}\.{minor}\).* sm_75, .*cpu$"
        with pytest.raises(UserError, match=told):
            cuda.check_code(CUDA)
