"""Which run a saved state belongs to, and how often one is saved."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar_resnet.process import checkpoint, machine, resume
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.distributed.world import ALONE, World
from tests.training.test_loop import config

CPU = torch.device("cpu")


def folder(
    settings: TrainConfig, data: list[str], dtype: torch.dtype = torch.float32, compiled: bool = False
) -> Path:
    return resume.resume_folder(settings, data, CPU, dtype, compiled)


def test_all_that_decides_a_bit_is_part_of_a_runs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        folder(config(), ["train", "val"]),
        folder(config(seed=4), ["train", "val"]),
        folder(config(), ["other", "val"]),
        folder(config(), ["train", "other"]),
        folder(config(), ["train", "val"], torch.bfloat16),
        folder(config(), ["train", "val"], compiled=True),
    }
    monkeypatch.setattr(resume, "_code_digest", lambda: "other")
    names.add(folder(config(), ["train", "val"]))
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    for model, flags in ((143, "avx512_bf16"), (143, "avx512_bf16 amx_bf16"), (207, "avx512_bf16")):
        core = f"processor\t: 0\ncpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: Xeon\n"
        cpuinfo.write_text(f"{core}flags\t\t: fpu {flags}\n\n" * 2)
        names.add(folder(config(), ["train", "val"]))
    assert machine.processor() == "Xeon, family 6 model 207"
    monkeypatch.setattr("cifar_resnet.network.device.fingerprint", lambda _: {"device": "other"})
    names.add(folder(config(), ["train", "val"]))
    assert len(names) == 11
    assert folder(config(), ["train", "val"]) == folder(config(), ["train", "val"])


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[resume.Keeper, list[float]]]:
    """A keeper and the time, to be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with resume.Keeper(tmp_path, CPU) as keeper:
        yield keeper, now


def state(epoch: int, step: int) -> Any:
    return SimpleNamespace(epoch=epoch, step=step, state_dict=lambda: {"epoch": epoch, "step": step})


def labels(keeper: resume.Keeper) -> list[str]:
    """Of the two last states."""
    if keeper.writing:
        keeper.writing.result()
    return [path.name.split(".")[1] for path in sorted(keeper.folder.glob("*.pt"))]


def test_a_state_is_saved_every_30_seconds_at_the_end_of_an_epoch_and_every_five_minutes_inside_one(
    keeper: tuple[resume.Keeper, list[float]],
) -> None:
    saver, now = keeper

    def saved(epoch: int, step: int, seconds: float, stopping: bool = False) -> bool:
        now[0] += seconds
        saver.keep(state(epoch, step), epoch_ended=step == 0, now=stopping)
        return labels(saver)[-1:] == [f"{epoch}-{step}"]

    assert [epoch for epoch in range(1, 31) if saved(epoch, 0, 3)] == [1, 12, 23]
    assert saved(31, 0, 0, stopping=True), "the end, or a signal"
    assert [step for step in range(1, 1000) if saved(31, step, 1)] == [301, 602, 903]


def test_the_lines_about_unfinished_runs_are_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        folder = tmp_path / f"{seed:016x}"
        with resume.hold(folder, config(seed=seed), ALONE):
            checkpoint.save(folder, {"seed": seed}, "7-3")
    capsys.readouterr()
    with resume.hold(tmp_path / "new", config(seed=9), World(1, 2)):
        assert capsys.readouterr().out == ""
    with resume.hold(tmp_path / "new", config(seed=9, epochs=4), ALONE):
        lines = capsys.readouterr().out.splitlines()
    assert len(lines) == resume.SHOWN + 1
    assert lines[0].startswith(
        "an unfinished run is kept, 7 epochs and 3 steps long, 0 MB: `dvc repro` goes on"
    )
    assert "with it after train.seed: 4, train.epochs: 3 in params.yaml; `rm -r" in lines[0]
    assert lines[-1] == f"and 2 more unfinished runs in {tmp_path}"
    with resume.hold(tmp_path / "new", config(seed=4), ALONE):
        assert "goes on with it after its code, data and machine" in capsys.readouterr().out


def test_the_digest_of_the_code_is_that_of_the_deps_of_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {deps: [code, data.safetensors, stage.py]}}")
    (tmp_path / "code").mkdir()
    for name in ("code/one.py", "stage.py", "other.py", "data.safetensors"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    digests = [resume._code_digest()]
    (tmp_path / "code/.ipynb_checkpoints").mkdir()
    (tmp_path / "code/.ipynb_checkpoints/one.py").write_text("an older version")
    (tmp_path / "code/.#one.py").symlink_to("user@host.1234")  # Emacs's lock
    assert digests == [resume._code_digest()]
    for name in ("code/one.py", "stage.py", "other.py", "data.safetensors"):
        (tmp_path / name).write_text("changed")
        digests.append(resume._code_digest())
    assert len(set(digests)) == 3
    assert digests[2] == digests[3] == digests[4]
