"""torch.compile in the train stage: chosen, refused, kept for the next run, and always the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifar_resnet.files.params import UserError
from cifar_resnet.network import device
from cifar_resnet.process import compilation, hardware, machine
from tests.conftest import Clone
from tests.training.test_loop import config

CPU, MPS = torch.device("cpu"), torch.device("mps")
PROBLEM = """
import torch
from cifar_resnet.network.device import compile_problem
print(compile_problem(torch.device("cpu")))
"""


@pytest.mark.slow
def test_a_missing_compiler_is_a_problem_that_is_named(tmp_path: Path) -> None:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": "/nonexistent/g++"}
    told = subprocess.check_output([sys.executable, "-c", PROBLEM], env=environment, text=True)
    assert "No working C++ compiler" in told
    assert len(told.splitlines()) == 1


def test_auto_compiles_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "compile_problem", lambda _: None)
    assert compilation.is_wanted("auto", CPU)
    assert compilation.is_wanted(True, MPS)
    assert not compilation.is_wanted(False, CPU)
    assert not compilation.is_wanted("auto", MPS)
    assert compilation.find_problem("auto", CPU) is compilation.find_problem(True, CPU) is None
    monkeypatch.setattr(device, "compile_problem", lambda _: "no compiler here")
    assert compilation.find_problem("auto", CPU) == "no compiler here"
    assert compilation.find_problem(False, CPU) is compilation.find_problem("auto", MPS) is None
    with pytest.raises(UserError, match=r"train\.compile: .*no compiler here.*auto or false"):
        compilation.find_problem(True, CPU)


@pytest.mark.parametrize("problem", [None, "no compiler"])
def test_a_run_says_first_what_it_runs_on(
    problem: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept")
    monkeypatch.setattr(device, "make_deterministic", lambda _: None)
    monkeypatch.setattr(device, "describe", lambda _: "a GPU")
    monkeypatch.setattr(device, "compile_problem", lambda _: problem)
    monkeypatch.setattr(machine, "_git", lambda *_: None)
    monkeypatch.delenv("RANK", raising=False)
    found = hardware.prepare(config(device="cpu", precision="float16", compile="auto", processes=2))
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"training on 2 x a GPU in float16{'' if problem else ', compiled'}"
    assert second.endswith(problem or "(kept in /kept)")
    assert found == (CPU, torch.float16, problem is None)
    facts = found.facts()
    assert (facts["precision"], facts["compiled"]) == ("torch.float16", problem is None)
    assert {"device", "processor", "threads", "torch", "python"} <= facts.keys()


def test_a_compiled_run_repeats_bit_for_bit_with_new_and_with_kept_code(
    finished: Clone, tmp_path: Path
) -> None:
    clone = Clone(tmp_path / "clone", tmp_path / "cache", {"train": {"compile": True}})
    (clone.folder / "data").symlink_to(finished.folder / "data")
    models = []
    for _ in range(2):
        assert "the first step compiles the network" in clone.stage("train")
        models.append(clone.read("models/resnet50.safetensors"))
        assert list((clone.cache / "cifar-resnet/compiled").iterdir())
    assert models[0] == models[1]
    assert models[0] != finished.read("models/resnet50.safetensors"), "it was not compiled"
