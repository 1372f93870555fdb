"""torch.compile in the train stage: chosen, refused, kept for the next run, and always the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifar_resnet import device
from stages.compilation import use_compile
from tests.conftest import Clone

CPU, MPS = torch.device("cpu"), torch.device("mps")
PROBLEM = "import torch; from cifar_resnet.device import compile_problem as p; print(p(torch.device('cpu')))"


def problem(cache: Path, **environment: str) -> str:
    everything = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROBLEM], env=everything, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_missing_compiler_is_a_problem_that_is_named(tmp_path: Path) -> None:
    assert problem(tmp_path / "one") == "None"
    told = problem(tmp_path / "two", CXX="/nonexistent/g++")
    assert "No working C++ compiler" in told
    assert len(told.splitlines()) == 1


def test_auto_compiles_where_that_works_and_says_what_happens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept/here")
    monkeypatch.setattr(device, "compile_problem", lambda _: None)
    assert use_compile("auto", CPU)
    assert use_compile(True, CPU)
    assert capsys.readouterr().out.count("the first step compiles the network") == 2
    assert not use_compile(False, CPU)
    assert not use_compile("auto", MPS)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(device, "compile_problem", lambda _: "no compiler here")
    assert not use_compile("auto", CPU)
    assert "without torch.compile, which does not work here: no compiler here" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"train\.compile: .*no compiler here.*auto or false"):
        use_compile(True, CPU)


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
