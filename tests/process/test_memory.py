"""Stages on a Linux CPU start themselves again, to keep their main memory: when, how and with what."""

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cifar_resnet.process import memory
from tests.conftest import Clone
from tests.process.test_resume import OUTPUTS

PYTHON = "/env/bin/python"


class Restarted(Exception):  # noqa: N818 -- it stands for execve, which does not return
    """What would have been started."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`python -m stages.train` on the CPU of a machine with huge pages and glibc 2.36."""

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Restarted(path, arguments, environment)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(sys, "executable", PYTHON)
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "stages.train", "--traceback"])
    monkeypatch.setattr(memory, "glibc", lambda: (2, 36))
    monkeypatch.setattr(memory, "NVIDIA", tmp_path / "nvidiactl")
    monkeypatch.setattr(memory, "HUGE_PAGES", tmp_path / "enabled")
    memory.HUGE_PAGES.write_text("always [madvise] never\n")
    for name in (memory.SWITCH, memory.TUNABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {device: cpu}\nevaluate: {device: cpu}\n")
    return monkeypatch


def started() -> str | None:
    """The settings with which it starts again, after a look at the rest; None when it does not."""
    try:
        memory.restart()
    except Restarted as call:
        path, arguments, environment = call.args
        assert (path, arguments) == (PYTHON, [PYTHON, *sys.orig_argv[1:]])
        assert environment == os.environ | {memory.SWITCH: "1", memory.TUNABLES: environment[memory.TUNABLES]}
        return str(environment[memory.TUNABLES])
    return None


def test_it_starts_again_with_its_arguments_and_the_settings(machine: pytest.MonkeyPatch) -> None:
    settings = started()
    assert settings is not None
    assert settings.split(":")[0] == "glibc.malloc.mmap_max=0"
    assert "glibc.malloc.hugetlb=1" in settings
    machine.setattr(sys, "orig_argv", ["python", "-mstages.evaluate"])
    assert started() == settings


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({"params": "train: {device: auto}"}, True),
        ({"params": "train: {device: auto}", "gpu": True}, False),
        ({"gpu": True}, True),
        ({"params": "train: {device: cuda}"}, False),
        ({"words": ["python", "-m", "stages.fetch"]}, False),
        ({"set": memory.SWITCH}, False),  # by the user, or by the start before
        ({"set": memory.TUNABLES}, False),
        ({"params": "train: ["}, False),  # what is wrong is for the stage to refuse
        ({"params": "train: 3"}, False),
        ({"params": None}, False),
    ],
)
def test_only_a_stage_that_computes_on_the_cpu_starts_again_and_once(
    changes: dict[str, Any], starts: bool, machine: pytest.MonkeyPatch
) -> None:
    if changes.get("gpu"):
        memory.NVIDIA.touch()
    if "words" in changes:
        machine.setattr(sys, "orig_argv", changes["words"])
    if "set" in changes:
        machine.setenv(changes["set"], "")
    if "params" in changes:
        Path("params.yaml").unlink()
        if changes["params"]:
            Path("params.yaml").write_text(changes["params"])
    assert (started() is not None) == starts


def test_without_huge_pages_or_with_an_older_glibc_none_are_asked_for(machine: pytest.MonkeyPatch) -> None:
    with machine.context() as older:
        older.setattr(memory, "glibc", lambda: (2, 34))
        assert "hugetlb" not in memory.tunables()
    memory.HUGE_PAGES.write_text("always madvise [never]\n")
    assert "hugetlb" not in memory.tunables()
    memory.HUGE_PAGES.unlink()
    assert "hugetlb" not in memory.tunables()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", mock.Mock(side_effect=[ValueError, None, "musl 1.2"]))  # macOS first
    assert [memory.tunables() for _ in range(3)] == [""] * 3


def test_free_memory_goes_back_after_the_first_step_and_after_each_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [("state", None), ("state", None), ("state", {"epoch": 1}), ("state", None)]
    trims: list[int] = []
    monkeypatch.setattr(memory, "_trim", lambda: trims.append(len(seen)))
    for switch, trimmed in (("0", []), ("1", [0, 2])):
        monkeypatch.setenv(memory.SWITCH, switch)
        seen: list[object] = []
        for step in memory.trimming(iter(steps)):
            seen += [step]
        assert seen == steps
        assert trims == trimmed, "before the caller has the step"


@pytest.mark.skipif(memory.glibc() is None, reason="needs glibc")
def test_a_real_stage_starts_again_once_under_the_same_number_with_the_same_bits(
    finished: Clone, tmp_path: Path
) -> None:
    clone = Clone(tmp_path / "clone", tmp_path / "cache")
    (clone.folder / "data").symlink_to(finished.folder / "data")
    show = clone.folder / "stages/train.py"
    stage = show.read_text()
    show.write_text("import os\nprint(os.getpid(), os.environ.get('GLIBC_TUNABLES'), flush=True)\n" + stage)
    process = clone.start("env", "-u", memory.SWITCH, sys.executable, "-m", "stages.train")
    printed, _ = process.communicate()
    assert process.returncode == 0
    assert printed.splitlines()[0] == f"{process.pid} {memory.tunables()}"
    assert all(clone.read(path) == finished.read(path) for path in OUTPUTS)
