"""`make harmless`: an edit that changes no bit gets into dvc.lock, any other one and any doubt does not."""

import re
from pathlib import Path

import pytest

from cifar_resnet.errors import UserError
from tests.conftest import Clone
from tools import harmless, lock, scratch

HARMLESS = ("python", "-m", "tools.harmless")
OPTIMIZER = "src/cifar_resnet/training/optimizer.py"
TRAINING = "      - src/cifar_resnet/training\n"  # in dvc.yaml


@pytest.fixture
def locked(finished: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A clone with a committed run, the working folder of this process."""
    clone = finished.copy(tmp_path)
    monkeypatch.chdir(clone.folder)
    return clone


def test_an_edit_of_comments_is_proved_by_its_syntax(locked: Clone) -> None:
    locked.edit(OPTIMIZER, '"""Return AdamW', '"""# Give back AdamW')
    locked.edit(OPTIMIZER, "    parameters = ", "    # one list\n    parameters = ")
    printed = locked.run(*HARMLESS)
    assert "training with the code" not in printed
    assert "level=syntax" in printed
    assert locked.run("git", "diff", "--name-only").split() == ["dvc.lock", OPTIMIZER]
    assert locked.dvc("status", "train") == "Data and pipelines are up to date.\n"
    scratch.commit(locked.folder, "the edit")
    assert "nothing to prove" in locked.run(*HARMLESS)


def test_an_edit_of_code_is_proved_by_equal_bytes_of_two_runs(locked: Clone) -> None:
    before = locked.read("dvc.lock")
    locked.edit(OPTIMIZER, '"weight_decay": config', '"weight_decay": 1.01 * config')
    printed = locked.run(*HARMLESS, status=1)
    assert "error: models/resnet50.safetensors differs: this edit changes the result" in printed
    assert locked.read("dvc.lock") == before
    locked.run("git", "checkout", "src")
    # A function in a file of its own.
    locked.edit(OPTIMIZER, "p.ndim >= 2]", "is_weight(p)]")
    locked.edit(
        OPTIMIZER, "from cifar_resnet", "from cifar_resnet.weight import is_weight\nfrom cifar_resnet"
    )
    (locked.folder / "src/cifar_resnet/weight.py").write_text("def is_weight(p):\n    return p.ndim >= 2\n")
    locked.edit("dvc.yaml", TRAINING, f"{TRAINING}      - src/cifar_resnet/weight.py\n")
    printed = locked.run(*HARMLESS, "--epochs", "1")
    assert f"git add dvc.lock dvc.yaml {OPTIMIZER} src/cifar_resnet/weight.py" in printed
    assert "git commit --trailer 'Same-bits: train base=" in printed
    assert "level=epoch epochs=1 precision=float32" in printed
    assert locked.run("git", "diff", "--name-only").split() == ["dvc.lock", "dvc.yaml", OPTIMIZER]
    assert locked.dvc("status", "train") == "Data and pipelines are up to date.\n"


def test_annotations_and_new_files_are_no_matter_of_layout() -> None:
    before = {"a.py": b'"""Text."""\nx: int = 1\n'}
    assert harmless.same_syntax(before, {"a.py": b'# more\n"""Other."""\n\nx: int = (1)\n'})
    assert harmless.same_syntax(before, {"a.py": b"x: int = 1\n"})
    assert not harmless.same_syntax(before, {"a.py": b'"""Text."""\nx: float = 1\n'})
    assert not harmless.same_syntax(before, before | {"b.py": b""})


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("params.yaml", "patience: 10", "patience: 9", "params.yaml: train is not what train ran with"),
        ("dvc.yaml", TRAINING, "      - data/raw\n", "dvc.yaml: train is not the stage that ran"),
        ("models/resnet50.safetensors", "", "", "`dvc pull --force -r released"),
        ("data/tensors/val.safetensors", "", "", "`dvc repro preprocess`"),
        ("plots/history.csv", "1,", "2,", "`git checkout HEAD plots/history.csv`"),
        ("dvc.lock", "schema: '2.0'", "schema: '2.0'  # mine", "is not committed"),
    ],
)
def test_more_than_an_edit_of_code_is_refused(
    locked: Clone, path: str, old: str, new: str, message: str
) -> None:
    harmless.refuse(lock.locked())
    locked.edit(path, old, new) if old else (locked.folder / path).unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        harmless.refuse(lock.locked())
