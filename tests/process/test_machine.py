"""What is said of the machine before a run, and what tells two machines apart."""

import pytest
import torch

from cifar_resnet.numerics import Numerics
from cifar_resnet.process import machine

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_a_run_says_first_what_it_runs_on_and_why_it_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "device_name", lambda _: "a GPU")
    facts = machine.announce(Numerics(CPU, torch.float16, False, "no compiler"), 2)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "training on 2 x a GPU in float16"
    assert second.endswith("no compiler")
    assert (facts["precision"], facts["compiled"]) == ("torch.float16", False)
    assert {"device", "processor", "threads", "torch", "python"} <= facts.keys()


def test_the_fingerprint_has_versions_and_on_the_cpu_alone_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    before = [machine.fingerprint(device) for device in (CPU, CUDA, MPS)]
    assert (before[0]["torch"], before[0]["threads"]) == (torch.__version__, torch.get_num_threads())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    after = [machine.fingerprint(device) for device in (CPU, CUDA, MPS)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]
