"""What decides bits: device, dtype, determinism, compiling; with stand-ins for GPUs and processors."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from cifar_resnet import numerics
from cifar_resnet.errors import ParamsError, UserError
from cifar_resnet.numerics import autocast_dtype, find_device, set_deterministic, will_compile

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def present(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    """Let PyTorch say so; tensors on the GPU are made on the CPU."""
    ones = torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "set_device", mock.Mock())
    monkeypatch.setattr(torch, "ones", lambda *size, **_: ones(*size))


def test_auto_is_the_first_device_present_and_an_absent_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for gpu, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        present(monkeypatch, cuda=gpu, mps=mps)
        assert find_device("auto").type == expected
        assert find_device("cpu") == CPU
    with pytest.raises(ParamsError, match=r"^device cuda is not available .*; use one of: auto, cpu$"):
        find_device("cuda")


def test_a_process_of_a_launcher_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=True, mps=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert find_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device("cuda") == torch.device("cuda", 1)
    torch.cuda.set_device.assert_called_with(torch.device("cuda", 1))  # type: ignore[attr-defined]


def test_a_gpu_that_cannot_compute_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=True, mps=False)
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")
    monkeypatch.setattr(torch, "ones", mock.Mock(side_effect=error))
    told = r"^PyTorch cannot compute on cuda:0: CUDA error: no kernel image .* device; or set device to cpu$"
    with pytest.raises(UserError, match=told):
        find_device("auto")


def test_a_gpu_that_pytorch_cannot_use_is_no_reason_to_use_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "nvidiactl"
    control.touch()
    present(monkeypatch, cuda=False, mps=False)
    monkeypatch.setattr(numerics, "NVIDIA", control)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", mock.Mock(side_effect=RuntimeError("The driver is too old.\nUp")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=r"cannot use: The driver is too old; or set device to cpu$"):
            find_device(name)
    assert find_device("cpu") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden: the user's choice
    assert find_device("auto") == CPU
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    control.unlink()
    assert find_device("auto") == CPU


def test_children_share_the_cores_or_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=False, mps=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert numerics.share("auto", 2) == CPU
    assert os.environ["OMP_NUM_THREADS"] == "2"
    present(monkeypatch, cuda=True, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    numerics.share("cuda", 2)
    with pytest.raises(ParamsError, match=r"train\.processes 3 needs as many GPUs, and PyTorch sees 2 here"):
        numerics.share("auto", 3)


def test_auto_is_what_the_gpu_multiplies_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    for capability, name in (((6, 1), "float32"), ((7, 0), "float16"), ((8, 0), "bfloat16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, one=capability: one)
        assert autocast_dtype("auto", CUDA) == getattr(torch, name)
        assert autocast_dtype("float16", CUDA) == torch.float16
        if capability < (8, 0):
            told = "the Tesla T4 cannot multiply it; use float16, float32 or auto"
            with pytest.raises(ParamsError, match=told):
                autocast_dtype("bfloat16", CUDA)


def test_auto_is_what_the_processor_multiplies_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor, amx, avx512_bf16, name in (
        ("AuthenticAMD", False, True, "bfloat16"),
        ("AuthenticAMD", False, False, "float32"),
        ("GenuineIntel", True, True, "bfloat16"),
        ("GenuineIntel", False, True, "float32"),  # slower than float32 there
    ):
        monkeypatch.setattr(numerics, "cpuinfo", lambda one=vendor: [{"vendor_id": one}] * 2)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda one=amx: one)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda one=avx512_bf16: one)
        assert autocast_dtype("auto", CPU) == getattr(torch, name)
        assert autocast_dtype("auto", MPS) == torch.float32


@pytest.fixture
def _settings_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what `numerics.choose` changes."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    matmul, cudnn, owner = torch.backends.cuda.matmul, torch.backends.cudnn, torch.utils.deterministic
    settings: Any = [(owner, "fill_uninitialized_memory"), (cudnn, "benchmark")]
    settings += [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    before = [getattr(owner, name) for owner, name in settings]
    deterministic = torch.are_deterministic_algorithms_enabled()
    for owner, name in settings:
        setattr(owner, name, True)
    yield
    torch.use_deterministic_algorithms(deterministic)
    for (owner, name), value in zip(settings, before, strict=True):
        setattr(owner, name, value)


@pytest.mark.usefixtures("_settings_put_back")
def test_deterministic_sets_all_that_repeating_a_run_takes_and_float32_is_not_tf32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_deterministic(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert numerics.choose("cpu", "float16") == (CPU, torch.float16, False, None)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's stays"
    present(monkeypatch, cuda=True, mps=False)
    assert find_device("auto").type == "cuda"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32  # torch.export reads them, too


def test_auto_compiles_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert will_compile("auto", CPU) == will_compile(True, CPU) == (True, None)
    monkeypatch.setattr(torch, "compile", mock.Mock(side_effect=RuntimeError("no compiler here\nsee")))
    assert will_compile("auto", CPU) == (False, "no compiler here")
    assert will_compile(False, CPU) == will_compile("auto", MPS) == (False, None)
    with pytest.raises(ParamsError, match=r"train\.compile: .*no compiler here.*auto or false"):
        will_compile(True, CPU)


COMPILING = """
import os
from cifar_resnet import numerics
print(*numerics.choose("cpu", "float32", compiling="auto")[2:], os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""


@pytest.mark.slow
def test_a_missing_compiler_is_named_and_compiled_code_is_kept_with_our_other_caches(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "INDUCTOR" not in name}
    environment |= {"CXX": "/nonexistent/g++", "XDG_CACHE_HOME": str(tmp_path)}
    told = subprocess.check_output([sys.executable, "-c", COMPILING], env=environment, text=True)
    assert re.search(r"^False .*No working C\+\+ compiler", told)
    assert told.endswith(f" {tmp_path}/cifar-resnet/compiled\n")
