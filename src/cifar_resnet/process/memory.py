"""Main memory on a Linux CPU: kept from step to step, not given back to the kernel and taken page by page.

By default glibc gives each large block back at once, and the kernel clears all of it for the next step. Its
settings are read when a process starts, so a stage starts itself again with them
(https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html). No bit of a result
depends on them. Nothing heavy is imported here: it would be imported twice.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

SWITCH = "CIFAR_RESNET_MALLOC"  # in the environment: 0 turns this off; 1 says that it has been done
TUNABLES = "GLIBC_TUNABLES"
STAGES = ("train", "evaluate")
NVIDIA = Path("/dev/nvidiactl")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
KEPT = {"mmap_max": 0, "trim_threshold": 2**35, "top_pad": 2**28}  # bytes; more than a step takes
Item = TypeVar("Item")


def restart() -> None:
    """Start this process again with the settings, if it is `python -m stages.train` or evaluate on the CPU.

    The process keeps its number, and a second time does nothing.
    """
    if sys.argv[0] != "-m":  # which it is while Python looks for the module; so not in a test's import
        return
    asked = [name for name in STAGES if any(word.endswith(f"stages.{name}") for word in sys.orig_argv)]
    if {SWITCH, TUNABLES} & os.environ.keys() or not asked or not on_cpu(asked[0]):
        return
    settings = tunables()
    if settings:
        environment = os.environ | {TUNABLES: settings, SWITCH: "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


def on_cpu(stage: str) -> bool:
    """Return whether params.yaml lets the stage compute on the CPU; what is wrong in it is found later."""
    with suppress(OSError, yaml.YAMLError, LookupError, TypeError):
        device = yaml.safe_load(Path("params.yaml").read_bytes())[stage]["device"]
        return device == "cpu" or (device == "auto" and not NVIDIA.exists())
    return False


def glibc() -> tuple[int, ...] | None:
    """Return the version of glibc, or None where the C library is another one."""
    with suppress(ValueError, OSError):  # macOS; musl
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else None
    return None


def tunables() -> str:
    """Return the settings for this machine's glibc, or nothing where there is none."""
    version = glibc()
    if version is None:
        return ""
    settings = dict(KEPT)
    if version >= (2, 35) and HUGE_PAGES.exists() and "[never]" not in HUGE_PAGES.read_text():
        settings["hugetlb"] = 1  # pages of 2 MB: 512 times fewer to get
    return ":".join(f"glibc.malloc.{name}={value}" for name, value in settings.items())


def trimming(steps: Iterator[tuple[Item, Any]]) -> Iterator[tuple[Item, Any]]:
    """Go through what `fit` yields; after the first step and each epoch give back what is free: compiling
    takes much.
    """
    if os.environ.get(SWITCH) != "1":
        yield from steps
        return
    for number, (state, record) in enumerate(steps):
        if number == 0 or record:
            _trim()
        yield state, record


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)
