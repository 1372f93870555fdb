"""A finished run is lost neither when DVC fails to record it nor to rubbish beside it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import zc.lockfile

from cifar_resnet.process import checkpoint, resume
from cifar_resnet.training.distributed.world import ALONE
from tests.conftest import Clone
from tests.process.test_resume import OUTPUTS
from tests.training.test_loop import config

MODEL = "0123456789abcdef0123456789abcdef"


@pytest.mark.slow
def test_a_finished_run_that_dvc_could_not_record_ends_at_once_the_next_time(
    finished: Clone, tmp_path: Path
) -> None:
    clone = finished.copy(tmp_path)
    clone.cache = tmp_path / "cache"
    clone.change({"train": {"seed": 7}})
    repro = clone.start("dvc", "repro", "--single-item", "train")
    while not list((tmp_path / "cache").rglob(checkpoint.HOLDER)):  # DVC has let go of its lock
        assert repro.poll() is None
        time.sleep(0.01)
    other = zc.lockfile.LockFile(str(clone.folder / ".dvc/tmp/lock"))  # another command of DVC
    printed, _ = repro.communicate()
    other.close()
    assert repro.returncode != 0, printed
    outputs = [clone.read(path) for path in OUTPUTS]
    printed = clone.dvc("repro", "--single-item", "train")
    assert "after 3 epochs and 0 steps" in printed
    assert "it had finished, but dvc.lock does not have its model" in printed
    assert "images/s" not in printed
    assert [clone.read(path) for path in OUTPUTS] == outputs
    (kept,) = (tmp_path / "cache").rglob("*.pt")
    clone.dvc("repro", "--single-item", "--force", "evaluate")
    assert not kept.parent.exists(), "recorded by now"


def run(parent: Path, number: int, done: dict[str, Any] | None = None) -> Path:
    """A run in `parent` that saved a state, finished if `done` says so."""
    folder = parent / f"{number:016x}"
    with resume.hold(folder, config(seed=number), ALONE):
        checkpoint.save(folder, {}, "7-3")
    if done:
        (folder / checkpoint.DONE).write_text(json.dumps(done))
    return folder


def test_a_finished_run_stays_until_its_clone_has_recorded_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lock in (("recorded", f"md5: {MODEL}"), ("failed", "md5: 0"), ("first", None), ("old", None)):
        (tmp_path / name).mkdir()
        if lock:
            (tmp_path / name / "dvc.lock").write_text(lock)
    parent = tmp_path / "resume"
    parent.mkdir()
    folders = {
        name: run(parent, number, {"model": MODEL, "clone": str(tmp_path / name)})
        for number, name in enumerate(("recorded", "failed", "first", "gone", "old"))
    }
    unfinished = run(parent, 5)
    week = time.time() - 8 * 86_400
    os.utime(folders["old"] / checkpoint.DONE, (week, week))
    capsys.readouterr()
    checkpoint.forget_recorded(parent)
    assert {path.name for path in parent.iterdir()} == {
        path.name for path in (folders["failed"], folders["first"], unfinished)
    }
    assert "finished 8 days ago" in capsys.readouterr().out
    with resume.hold(parent / f"{10:016x}", config(seed=9), ALONE):
        lines = capsys.readouterr().out
    assert f"{tmp_path / 'failed'}/dvc.lock lacks its model" in lines
    assert "dvc commit train" in lines


def test_what_is_no_run_and_what_is_damaged_beside_a_run_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / f"{0xF:016x}").write_text("a file with the name of a run")
    (tmp_path / "lost+found").mkdir()
    for number, content in enumerate((b"", b'{"params": {"se', b"\xff\xfe\x00", b"[]")):
        (run(tmp_path, number) / checkpoint.HOLDER).write_bytes(content)
    (run(tmp_path, 4) / checkpoint.DONE).write_text('{"model": "0"}')
    foreign = run(tmp_path, 9)

    def locked(path: Path, **options: Any) -> Any:
        if path.parent == foreign:
            raise PermissionError(path)
        return filelock.FileLock(path, **options)

    monkeypatch.setattr("cifar_resnet.process.checkpoint.FileLock", locked)
    capsys.readouterr()
    with resume.hold(tmp_path / f"{0xA:016x}", config(), ALONE):
        assert capsys.readouterr().out.count("an unfinished run is kept, 7 epochs") == resume.SHOWN


def test_a_held_run_with_a_damaged_note_names_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / f"{0:016x}"
    with resume.hold(folder, config(), ALONE):
        (folder / checkpoint.HOLDER).write_bytes(b"\xff")
        line = f"by another process, which has locked {folder}/lock"
        with pytest.raises(ValueError, match=line), resume.hold(folder, config(), ALONE):
            pass
