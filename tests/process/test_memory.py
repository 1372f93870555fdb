"""Main memory that is kept from step to step, and what is said when there is none left."""

from unittest import mock

import pytest
import torch

from cifar_resnet.errors import UserError
from cifar_resnet.process import memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> mock.MagicMock:
    """A C library that says that all has worked."""
    library = mock.MagicMock()
    library.mallopt.return_value = 1
    monkeypatch.setattr(memory, "kept", False)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(memory.SWITCH, raising=False)
    return library


def test_memory_is_kept_on_the_cpu_with_glibc_unless_that_is_switched_off(
    libc: mock.MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.keep(CUDA)
    monkeypatch.setenv(memory.SWITCH, "0")
    memory.keep(CPU)
    monkeypatch.delenv(memory.SWITCH)
    for name in ("", "libc"):  # macOS, musl
        monkeypatch.setattr("platform.libc_ver", lambda name=name: (name, ""))
        memory.keep(CPU)
    assert not libc.mallopt.called
    assert not memory.kept
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    memory.keep(CPU)
    assert memory.kept
    assert libc.mallopt.call_args_list == [mock.call(-4, 0), mock.call(-1, -1), mock.call(-2, 2**28)]
    libc.mallopt.return_value = 0
    memory.keep(CPU)
    assert not memory.kept


def test_free_memory_goes_back_after_the_first_step_and_after_each_epoch(libc: mock.MagicMock) -> None:
    steps = [("state", None), ("state", None), ("state", {"epoch": 1}), ("state", None)]
    assert list(memory.trim_after(iter(steps))) == steps
    assert not libc.malloc_trim.called, "it is not kept"
    memory.keep(CPU)
    trims = [libc.malloc_trim.call_count for _ in memory.trim_after(iter(steps))]
    assert trims == [1, 1, 2, 2], "before the caller has the step"


def test_memory_running_out_names_the_batch_size_and_other_errors_stay_as_they_are() -> None:
    message = r"^out of memory; lower train\.batch_size \(now 256\)$"
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.31 GB, other allocations: 800.00 MB)"),
    ):
        with pytest.raises(UserError, match=message) as caught, memory.explain_out_of_memory("train", 256):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(UserError, match=message), memory.explain_out_of_memory("train", 256):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="wrong shape"), memory.explain_out_of_memory("train", 256):
        raise RuntimeError("wrong shape")
