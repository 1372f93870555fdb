import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch.torch_version import TorchVersion

from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda
from cifar_resnet.network import device as device_module
from cifar_resnet.network.device import (
    autocast_dtype,
    check_gradients,
    fingerprint,
    make_deterministic,
    naming_memory,
    select_device,
)

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture
def _settings_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what `make_deterministic` changes."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    settings: Any = torch.utils.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, benchmark = settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark = fill, benchmark


def present(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    """Let PyTorch say so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_is_the_first_device_present(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        present(monkeypatch, cuda=gpu, mps=mps)
        assert select_device("auto").type == expected


def test_a_device_that_is_absent_is_refused_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=False, mps=True)
    assert [select_device(name) for name in ("cpu", "mps")] == [CPU, MPS]
    told = r"^device cuda is not available .*; use one of: auto, mps, cpu$"
    with pytest.raises(ValueError, match=told):
        select_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 1), torch.float32), ((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)],
)
def test_auto_is_what_the_gpu_multiplies_fast(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert autocast_dtype("auto", CUDA) == dtype
    assert autocast_dtype("float16", CUDA) == torch.float16


def test_bfloat16_that_a_gpu_would_emulate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(UserError, match="the Tesla T4 cannot multiply it; use float16, float32 or auto"):
        autocast_dtype("bfloat16", CUDA)


def test_float32_on_a_gpu_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=True, mps=False)
    parts: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = True
        assert select_device("auto") == CUDA
        assert [part.allow_tf32 for part in parts] == [False, False]  # torch.export reads them, too
    finally:
        for part, value in zip(parts, before, strict=True):
            part.allow_tf32 = value


def test_a_gpu_that_cannot_be_used_is_no_reason_to_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "check_driver", mock.Mock(side_effect=UserError("driver")))
    present(monkeypatch, cuda=False, mps=False)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match="driver"):
            select_device(name)
    assert select_device("cpu") == CPU


def test_wrong_gradients_on_mps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.10.1", "2.14.0"):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        check_gradients(MPS)
    for version in ("2.11.0", "2.13.1"):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        check_gradients(CPU)
        with pytest.raises(UserError, match=rf"^PyTorch {version} computes .* wrongly on MPS; install 2.14"):
            check_gradients(MPS)


@pytest.mark.parametrize(
    ("name", "amx", "avx512_bf16", "dtype"),
    [
        ("AMD EPYC 9B14", False, True, torch.bfloat16),
        ("AMD EPYC 7B13", False, False, torch.float32),
        ("Intel(R) Xeon(R) Processor", True, True, torch.bfloat16),
        ("Intel(R) Xeon(R) Processor", False, True, torch.float32),  # slower than float32 there
    ],
)
def test_auto_is_what_the_processor_multiplies_fast(
    name: str, amx: bool, avx512_bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "processor", lambda: name)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert autocast_dtype("auto", CPU) == dtype
    assert autocast_dtype("auto", MPS) == torch.float32


@pytest.mark.usefixtures("_settings_put_back")
def test_deterministic_sets_all_that_repeating_a_run_takes_and_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_deterministic(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    make_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's stays"


def test_the_fingerprint_tells_versions_and_processors_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = fingerprint(CPU)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"].startswith("cpu ")
    assert facts["cudnn"] is None
    assert fingerprint(CPU) == facts
    monkeypatch.setattr(torch, "get_num_threads", lambda: facts["threads"] + 1)
    assert fingerprint(CPU) != facts


@pytest.mark.parametrize("target", [CUDA, MPS])
def test_on_a_gpu_the_number_of_threads_decides_no_bit(
    target: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    facts = fingerprint(target)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert fingerprint(target) == facts


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.31 GB, other allocations: 800.00 MB)"),
]


def test_memory_running_out_names_the_batch_size() -> None:
    message = r"^out of memory; lower train\.batch_size \(now 256\)$"
    for error in OUT_OF_MEMORY:
        with pytest.raises(ValueError, match=message) as caught, naming_memory("train", 256):
            raise error
        assert caught.value.__cause__ is error
    for device in DEVICES:
        with pytest.raises(ValueError, match=message), naming_memory("train", 256):
            torch.empty(2**60, dtype=torch.uint8, device=device)


def test_other_errors_stay_as_they_are() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)")
    with pytest.raises(RuntimeError) as caught, naming_memory("train", 256):
        raise error
    assert caught.value is error
