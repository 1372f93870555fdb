"""The command that says what pictures show, as a process of its own and in more than one clone."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from cifar_resnet.network.resnet import ResNet
from tests.conftest import Clone
from tests.serving.conftest import CLASSES, by_hand, json_lines, noise, picture, stored
from tools.scratch import ROOT


def predicted(*words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the command with these words, in ASCII, on the CPU."""
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-m", "tools.predict", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, cwd=ROOT, env=environment, **options)


@pytest.mark.slow
def test_a_picture_comes_through_a_pipe(model: ResNet, model_path: Path) -> None:
    content = stored(picture(noise(32, 32)), "PNG").getvalue()
    words = ("-", "--model", str(model_path), "--json", "--top", "1")
    done = predicted(*words, input=content, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    ((path, predictions),) = json_lines(done.stdout.decode())
    share, label = by_hand(model, noise(32, 32)[None]).softmax(1)[0].max(0)
    assert path == "-"
    assert predictions == {CLASSES[int(label)]: pytest.approx(share.item(), abs=1e-5)}


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(folder: Path, model_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = predicted(str(folder), "--model", str(model_path), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show_is_escaped(folder: Path, model_path: Path) -> None:
    (folder / "b.png").rename(folder / "é.png")
    done = predicted(str(folder / "é.png"), "--model", str(model_path), stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(str(folder / "\\xe9.png"))


def test_each_clone_runs_its_own_code_whichever_is_installed(
    clone: Clone, tmp_path: Path, folder: Path, model_path: Path
) -> None:
    shutil.copytree(folder, clone.folder / "in")
    for place in (clone, clone.copy(tmp_path / "other")):
        (place.folder / "models").mkdir()
        shutil.copy(model_path, place.folder / files.MODEL)
    other = place
    changed = other.folder / "src/cifar_resnet/serving/pictures.py"
    changed.write_text(changed.read_text() + "\nprint('the other clone')\n")
    installed = str(clone.folder / "src")
    first = clone.run("python", "-m", "tools.predict", "in", PYTHONPATH=installed)
    assert len(first.splitlines()) == 6
    second = other.run("python", "-m", "tools.predict", "in", PYTHONPATH=installed)
    assert second == "the other clone\n" + first
