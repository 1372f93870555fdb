"""Main memory on a Linux CPU: kept from step to step, not given back to the kernel and taken page by page.

By default glibc gives each large block back at once, and the kernel clears all of it for the next step. No
bit of a result depends on that (https://man7.org/linux/man-pages/man3/mallopt.3.html).
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from cifar_resnet.errors import UserError

SWITCH = "CIFAR_RESNET_MALLOC"  # in the environment: 0 turns this off
# malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (-1: never), M_TOP_PAD (bytes)
SETTINGS = {-4: 0, -1: -1, -2: 2**28}
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED")  # in errors without a class
Item = TypeVar("Item")
kept = False  # whether `keep` was called and worked


def keep(device: torch.device) -> None:
    """Let this process keep its memory, if it computes on the CPU and its C library is glibc."""
    global kept
    if device.type == "cpu" and os.environ.get(SWITCH) != "0" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        kept = all(mallopt(name, value) == 1 for name, value in SETTINGS.items())


def trim_after(steps: Iterator[tuple[Item, Any]]) -> Iterator[tuple[Item, Any]]:
    """Go through what `fit` yields; after the first step and each epoch give back what is free.

    Compiling takes much memory.
    """
    for number, (state, record) in enumerate(steps):
        if kept and (number == 0 or record):
            ctypes.CDLL(None).malloc_trim(0)
        yield state, record


@contextmanager
def explain_out_of_memory(section: str, batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a UserError that says which number to lower."""
    try:
        yield
    except RuntimeError as error:
        # CUDA has a class for it, the allocators of the CPU and of MPS raise a plain RuntimeError
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise UserError(f"out of memory; lower {section}.batch_size (now {batch_size})") from error
        raise
