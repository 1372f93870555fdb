"""Which run a folder of checkpoints belongs to, who holds it, and what is said of the others."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
import zc.lockfile

from cifar_resnet import files, numerics
from cifar_resnet.errors import UserError
from cifar_resnet.process import checkpoint, machine, resume, runs
from cifar_resnet.training.distributed.world import SINGLE_PROCESS, World
from tests.conftest import OUTPUTS, Clone
from tests.process.test_checkpoint import no_space
from tests.training.test_loop import config

CPU = torch.device("cpu")
MODEL = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs."""
    monkeypatch.setattr(files, "cache", lambda: tmp_path / "cache")
    runs.folder_of_runs().mkdir(parents=True)
    return runs.folder_of_runs()


def run(number: int, done: dict[str, Any] | None = None) -> Path:
    """A run that saved a checkpoint, finished if `done` says so."""
    folder = runs.folder_of_runs() / f"{number:016x}"
    with resume.hold(folder, config(seed=number), SINGLE_PROCESS):
        checkpoint.save(folder, {}, "7-3")
    if done:
        (folder / runs.DONE).write_text(json.dumps(done))
    return folder


def test_all_that_decides_a_bit_is_part_of_a_runs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = numerics.Numerics(CPU, torch.float32, False, None)

    def name(data: str = "train val", chosen: numerics.Numerics = plain, **changes: Any) -> Path:
        return resume.run_folder(config(**changes), data.split(), chosen)

    names = {
        *(name(), name(seed=4), name("other val"), name("train other")),
        *(name(chosen=plain._replace(dtype=torch.bfloat16)), name(chosen=plain._replace(compiled=True))),
    }
    monkeypatch.setattr(resume, "_code_digest", lambda: "other")
    names.add(name())
    monkeypatch.setattr(numerics, "CPUINFO", tmp_path / "cpuinfo")
    for model, flags in ((143, "avx512_bf16"), (143, "avx512_bf16 amx_bf16"), (207, "avx512_bf16")):
        core = f"processor\t: 0\ncpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: Xeon\n"
        numerics.CPUINFO.write_text(f"{core}flags\t\t: fpu {flags}\n\n" * 2)
        names.add(name())
    assert machine.processor() == "Xeon, family 6 model 207"
    monkeypatch.setattr(machine, "fingerprint", lambda _: {"device": "other"})
    names.add(name())
    assert len(names) == 11
    assert name() == name()


def test_the_digest_of_the_code_is_that_of_the_deps_of_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {train: {deps: [code, data.safetensors, stage.py]}}")
    Path("code/.ipynb_checkpoints").mkdir(parents=True)
    names = ("code/one.py", "stage.py", "other.py", "data.safetensors", "code/.ipynb_checkpoints/one.py")
    for name in names:
        Path(name).write_text(name)
    digests = [resume._code_digest()]
    Path("code/.#one.py").symlink_to("user@host.1234")  # Emacs's lock
    for name in names:
        Path(name).write_text("changed")
        digests.append(resume._code_digest())
    assert len(set(digests[:3])) == 3
    assert set(digests[3:]) == {digests[2]}, "neither other code nor an editor's copy"


def test_the_lines_about_interrupted_runs_are_few(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        (path,) = run(seed).glob("*.pt")
        os.utime(path, (seed, seed))
    held = run(5)
    (parent / f"{6:016x}").mkdir()  # without a checkpoint
    capsys.readouterr()
    with resume.hold(parent / "new", config(seed=9), World(1, 2)):
        assert capsys.readouterr().out == ""
    with (
        resume.hold(held, config(seed=5), SINGLE_PROCESS),
        resume.hold(parent / "new", config(seed=9, epochs=4), SINGLE_PROCESS),
    ):
        lines = capsys.readouterr().out.splitlines()[-runs.SHOWN - 1 :]
    told = "an interrupted run is kept, 7 epochs and 3 steps long, 0 MB: `dvc repro` goes on"
    assert lines[0].startswith(f"{told} with it after train.seed: 4, train.epochs: 3 in params.yaml; `rm -r")
    assert "train.seed: 3" in lines[1]
    assert lines[-1] == f"and 2 more interrupted runs in {parent}"
    with resume.hold(parent / "new", config(seed=4), SINGLE_PROCESS):
        assert "goes on with it after its code, data and machine" in capsys.readouterr().out
    assert not (parent / "new").exists(), "it has no checkpoint"


def test_a_finished_run_stays_until_its_clone_has_recorded_the_model(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recorded", "failed", "first", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "recorded/dvc.lock").write_text(f"md5: {MODEL}")
    (tmp_path / "failed/dvc.lock").write_text("md5: 0")
    folders = {
        name: run(number, {"model": MODEL, "clone": str(tmp_path / name)})
        for number, name in enumerate(("failed", "first", "old", "gone", "recorded"))
    }
    interrupted = run(5)
    week = time.time() - 8 * 86_400
    os.utime(folders["old"] / runs.DONE, (week, week))
    capsys.readouterr()
    runs.forget_recorded()
    assert set(parent.iterdir()) == {folders["failed"], folders["first"], interrupted}
    assert "a run of 8 days ago" in capsys.readouterr().out
    with resume.hold(parent / f"{10:016x}", config(seed=9), SINGLE_PROCESS):
        lines = capsys.readouterr().out
    assert f"{tmp_path / 'failed'}/dvc.lock lacks its model" in lines
    assert "dvc commit train" in lines


def test_two_processes_can_forget_the_same_run(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [run(number, {"model": MODEL, "clone": str(tmp_path / "gone")}) for number in range(3)]
    others, real = iter([runs.forget_recorded]), shutil.rmtree

    def remove(folder: Path, **options: Any) -> None:
        if folder.exists():
            (folder / "lock").unlink(missing_ok=True)  # as rmtree does at some point
            for other in others:
                other()
        real(folder, **options)

    monkeypatch.setattr("shutil.rmtree", remove)
    runs.forget_recorded()
    assert not any(map(Path.exists, folders))
    assert not list(parent.iterdir())


def test_a_full_disk_at_the_start_or_the_end_does_not_cost_the_run(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(0)
    monkeypatch.setattr(files, "MODEL", tmp_path / "model")
    files.MODEL.touch()
    monkeypatch.setenv("DVC_STAGE", "train")

    monkeypatch.setattr(files, "write_bytes", no_space)
    for held in (folder, parent / "none"):  # with a checkpoint, and without any
        capsys.readouterr()
        with resume.hold(held, config(), SINGLE_PROCESS):
            assert "No space left on device; training goes on" in capsys.readouterr().out
            resume.finish(held)
            assert ("the result is complete" in capsys.readouterr().out) == (held == folder)
    assert checkpoint.saved(folder)
    assert not (parent / "none").exists()


def test_what_is_no_run_and_what_is_damaged_beside_a_run_stops_nobody(
    parent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (parent / ".DS_Store").write_text("")
    (parent / f"{0xF:016x}").write_text("a file with the name of a run")
    (parent / "lost+found").mkdir()
    (parent / f"{0xD:016x}" / "lock").mkdir(parents=True)
    link = parent / f"{0xE:016x}"
    link.symlink_to(parent / "lost+found")
    (link / runs.DONE).write_text('{"model": "0", "clone": "gone"}')
    damaged = (b"", b'{"params": {"se', b"\xff\xfe\x00", b"[]", b'{"params": 5}', b"[" * 100_000)
    for number, content in enumerate(damaged):
        (run(number) / runs.RUN).write_bytes(content)
    clones: list[Any] = [None, 5, "\0", "x" * 5_000]
    for number, clone in enumerate(clones):
        (run(6 + number) / runs.DONE).write_text(json.dumps({"model": "0", "clone": clone}))
    foreign = run(0xC)

    def locked(path: Path, **options: Any) -> Any:
        if path.parent == foreign:
            raise PermissionError(path)
        return filelock.FileLock(path, **options)

    monkeypatch.setattr(runs, "FileLock", locked)
    capsys.readouterr()
    with resume.hold(parent / f"{0xA:016x}", config(), SINGLE_PROCESS):
        assert capsys.readouterr().out.count("run is kept, ") == runs.SHOWN
    assert [path.name for path in link.iterdir()] == [runs.DONE]


def test_a_second_holder_is_told_who_has_it(parent: Path) -> None:
    folder = parent / f"{0:016x}"
    known = rf"being trained by process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with resume.hold(folder, config(), SINGLE_PROCESS):
        for told in (rf"{known}.*: nothing is lost$", f"by another process, which has locked {folder}/lock"):
            with pytest.raises(UserError, match=told), resume.hold(folder, config(), SINGLE_PROCESS):
                pass
            (folder / runs.RUN).write_bytes(b"\xff")
        (folder / "lock").write_text("1\nhost\n")  # as where a disk has no locks
        told = f"nothing is lost; if that process is gone, `rm {folder}/lock`$"
        with pytest.raises(UserError, match=told), resume.hold(folder, config(), SINGLE_PROCESS):
            pass


def test_who_looks_at_a_run_leaves_it_to_its_owner(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parent / "run").mkdir()
    looking = filelock.FileLock(parent / "run" / "lock")
    looking.acquire()
    monkeypatch.setattr("time.sleep", lambda _: looking.release())  # while the owner waits
    with resume.hold(parent / "run", config(), SINGLE_PROCESS):
        assert not looking.is_locked


@pytest.mark.slow
def test_a_finished_run_that_dvc_could_not_record_ends_at_once_the_next_time(
    finished: Clone, tmp_path: Path
) -> None:
    clone, command = finished.copy(tmp_path), ("dvc", "repro", "--single-item")
    clone.cache = tmp_path / "xdg"
    clone.change({"train": {"seed": 7}})
    repro = clone.start(*command, "train")
    assert repro.stdout
    assert any(line.startswith("training on") for line in repro.stdout)  # DVC has let go of its lock
    other = zc.lockfile.LockFile(str(clone.folder / ".dvc/tmp/lock"))  # another command of DVC
    printed, _ = repro.communicate()
    other.close()
    assert repro.returncode != 0, printed
    outputs = [clone.read(path) for path in OUTPUTS]
    printed = clone.run(*command, "train")
    assert "after 3 epochs and 0 steps" in printed
    assert "it had finished, but dvc.lock does not have its model" in printed
    assert "images/s" not in printed
    assert [clone.read(path) for path in OUTPUTS] == outputs
    (kept,) = clone.cache.rglob("*.pt")
    clone.run(*command, "--force", "evaluate")
    assert not kept.parent.exists(), "recorded by now"
