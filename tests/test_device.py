import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cifar_resnet.device import (
    Precision,
    autocast_dtype,
    fingerprint,
    make_deterministic,
    naming_memory,
    select_device,
)

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


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


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_first_device_present(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    present(monkeypatch, cuda=cuda, mps=mps)
    assert select_device("auto").type == expected


def test_a_device_that_is_present_is_taken_as_named(monkeypatch: pytest.MonkeyPatch) -> None:
    present(monkeypatch, cuda=True, mps=True)
    for device in (CPU, CUDA, MPS):
        assert select_device(device.type) == device  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "allowed"),
    [
        ("cuda", False, False, "auto, cpu"),
        ("cuda", False, True, "auto, mps, cpu"),
        ("mps", False, False, "auto, cpu"),
        ("mps", True, False, "auto, cuda, cpu"),
    ],
)
def test_an_absent_device_is_refused_with_what_is_there(
    name: Any, cuda: bool, mps: bool, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    present(monkeypatch, cuda=cuda, mps=mps)
    with pytest.raises(ValueError, match=rf"^device {name} is not available .*; use one of: {allowed}$"):
        select_device(name)


@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_named_precision_is_taken_everywhere(
    precision: Precision, dtype: torch.dtype, device: torch.device
) -> None:
    assert autocast_dtype(precision, device) == dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_auto_is_bfloat16_on_gpus_from_ampere_on(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert autocast_dtype("auto", CUDA) == dtype


@pytest.mark.parametrize(("fast", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_auto_is_bfloat16_on_processors_that_multiply_it(
    fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert autocast_dtype("auto", CPU) == dtype
    assert autocast_dtype("auto", MPS) == torch.float32


def test_auto_precision_can_be_computed_in_here() -> None:
    with torch.autocast("cpu", autocast_dtype("auto", CPU), enabled=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == autocast_dtype("auto", CPU)


@pytest.mark.usefixtures("_settings_put_back")
def test_deterministic_sets_all_that_repeating_a_run_takes() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("_settings_put_back")
def test_an_algorithm_that_does_not_repeat_fails_when_deterministic() -> None:
    make_deterministic(True)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)


@pytest.mark.usefixtures("_settings_put_back")
def test_a_workspace_setting_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("_settings_put_back")
def test_deterministic_can_be_switched_off_again() -> None:
    make_deterministic(True)
    make_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.mark.usefixtures("_settings_put_back")
def test_switched_off_leaves_cublas_alone() -> None:
    make_deterministic(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_fingerprint_tells_versions_and_processors_apart() -> None:
    facts = fingerprint(CPU)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"].startswith("cpu ")
    assert facts["cudnn"] is None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert fingerprint(CPU) != facts
    finally:
        torch.set_num_threads(before)
    assert fingerprint(CPU) == facts


MESSAGE = r"^out of memory; lower train\.batch_size \(now 256\)$"


def test_gpu_memory_running_out_names_the_batch_size() -> None:
    with pytest.raises(ValueError, match=MESSAGE) as caught, naming_memory("train", 256):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_main_memory_running_out_names_the_batch_size() -> None:
    with pytest.raises(ValueError, match=MESSAGE), naming_memory("train", 256):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_gpu_memory_running_out_names_the_batch_size() -> None:
    with pytest.raises(ValueError, match=MESSAGE), naming_memory("train", 256):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        ValueError("train.batch_size 256 must be at most the 100 training images"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, naming_memory("train", 256):
        raise error
    assert caught.value is error


def test_without_an_error_nothing_happens() -> None:
    with naming_memory("train", 256):
        total = torch.ones(3).sum()
    assert total == 3
