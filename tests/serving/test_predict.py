"""The command that says what pictures show, in this process and in one of its own."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cifar_resnet import files
from cifar_resnet.errors import UserError
from cifar_resnet.network.resnet import ResNet
from cifar_resnet.serving import explanation
from tests.made_up import flip_a_bit
from tests.serving.conftest import CLASSES, PICTURES, by_hand, json_lines, noise, picture, stored
from tools import predict
from tools.scratch import ROOT


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BATCH", 4)


def test_predictions_of_a_folder_are_those_of_the_network(
    folder: Path, model: ResNet, model_path: Path, capsys: Any
) -> None:
    assert predict.main([str(folder), "--model", str(model_path), "--json", "--top", "99"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json_lines(out)
    order = ["C.TIFF", "a.bmp", "b.png", "d e.png", "deeper/a.png", "deeper/b.png"]
    assert [path for path, _ in found] == [str(folder / name) for name in order]
    images = torch.stack([noise(32, 32, PICTURES.index(name)) for name in order])
    probabilities = by_hand(model, images).softmax(1)
    assert probabilities.max(1).values.std() > 0.05  # opinions that differ
    for (_, predictions), expected in zip(found, probabilities, strict=True):
        assert list(predictions.values()) == sorted(predictions.values(), reverse=True)
        ours = torch.tensor([predictions[name] for name in CLASSES])
        torch.testing.assert_close(ours, expected.float(), rtol=0, atol=1e-5)


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    folder: Path, model_path: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # for pictures of twice as many pixels: an error
    photo = stored(picture(noise(100, 100)), "JPEG").getvalue()
    (tmp_path / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "text.png").write_text("<svg/>")
    (tmp_path / "empty.gif").touch()
    picture(noise(201, 200)).save(tmp_path / "bomb.png")
    picture(noise(150, 150)).save(tmp_path / "large.png")  # Pillow merely warns of this one
    (tmp_path / "bare").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes: opening it would wait for ever
    reasons = {
        "cut.jpg": "image file is truncated",
        "text.png": "not a picture in a format that Pillow reads",
        "missing.png": "No such file or directory",
        "empty.gif": "the file is empty",
        "bomb.png": "decompression bomb",
        "bare": "no picture in this folder",
        "pipe.png": "a pipe or a device, no file; - reads standard input",
    }
    monkeypatch.chdir(tmp_path)
    assert predict.main([*reasons, "large.png", "in/b.png", "--model", str(model_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [path for path, _ in json_lines(out)] == ["large.png", "in/b.png"]
    for line, (path, reason) in zip(err.splitlines(), reasons.items(), strict=True):
        assert re.match(f"error: {path}: .*{reason}", line)
    os.link("large.png", odd := "\33[2J\n.png")
    assert predict.main([odd, f"no{odd}", "--model", str(model_path), "--top", "1"]) == 1
    out, err = capsys.readouterr()
    assert (out.split()[0], err.split(": ")[1]) == (r"\x1b[2J\n.png", r"no\x1b[2J\n.png")


def test_a_folder_that_cannot_be_listed(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(13, "Permission denied", str(folder / "deeper"))
    monkeypatch.setattr(os, "scandir", mock.Mock(side_effect=[os.scandir(folder), denied]))
    assert len(list(predict.readable([str(folder)], 32, []))) == 4
    assert capsys.readouterr().err == f"error: {folder / 'deeper'}: Permission denied\n"


def test_a_network_that_cannot_be_read_is_the_users_error(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flip_a_bit(Path(shutil.copy(model_path, "damaged")))
    files.write_tensors(Path("images"), {"images": torch.zeros(1)}, {"classes": CLASSES})
    torch.save({"weight": torch.zeros(1)}, "weights.pth")
    save_file({"weight": torch.zeros(1)}, "others.safetensors")
    Path("network.onnx").write_bytes(onnx.helper.make_model(onnx.GraphProto()).SerializeToString())
    named = {"classes": CLASSES, "model": {"name": "another"}, "normalization": {}}
    files.write_tensors(Path("foreign"), {"images": torch.zeros(1)}, named)
    strange = "is damaged, or not a safetensors file that this project wrote$"
    told = {"nowhere": "is missing$", "damaged": "is damaged", "images": "no trained network"}
    told["foreign"] = "describes a network that this code does not know"
    weights, about = files.read_tensors(model_path)
    files.write_tensors(Path("large"), weights, about | {"image_size": 2000})
    told["large"] = "its image_size is 2000"
    files.write_tensors(Path("nameless"), weights, about | {"classes": []})
    told["nameless"] = "that this code does not know: 1 validation error"
    last, double = weights["fc.weight"], torch.tensor(1e300, dtype=torch.float64)
    odd = {"nan": last * float("nan"), "complex": last * 1j, "double": double, "huge": 0 * last + 3e38}
    for name, changed in odd.items():
        files.write_tensors(Path(name), weights | {"fc.weight": changed}, about)
        told[name] = "has weights that are NaN, infinite or complex$"
    told["huge"] = "answers are infinite$"
    header = json.dumps({"__metadata__": {files.METADATA_KEY: json.dumps({"sha256": "0" * 64})}, "x": {}})
    content = len(header).to_bytes(8, "little") + header.encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    Path("sealed").write_bytes(content.replace(b"0" * 64, digest))  # a right digest of what is no tensor
    told["sealed"] = "not what was written$"
    Path("pipe").symlink_to(os.devnull)  # no file either, and not waited for
    picture(noise(32, 32)).save("x.png")
    told |= dict.fromkeys(("pipe", "."), "is no file$")
    told |= dict.fromkeys(("weights.pth", "others.safetensors", "network.onnx"), strange)
    for path, reason in told.items():
        with pytest.raises(UserError, match=f"^{path} .*{reason}"):
            predict.main(["x.png", "--model", path])


def test_wrong_usage_ends_with_status_2(capsys: Any) -> None:
    for words in ("--top 0", "--explain a.jpg", "--explain ./a.png", "--explain nowhere/b.png"):
        with pytest.raises(SystemExit) as stopped:
            predict.main(["a.png", *words.split()])
        assert stopped.value.code == 2
        assert "usage: python -m tools.predict" in capsys.readouterr().err


def test_the_explanation_shows_the_first_pictures(
    folder: Path, model_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = mock.Mock(wraps=explanation.figure)
    monkeypatch.setattr(explanation, "figure", figure)
    out = folder.with_name("out.png")
    words = [str(folder), "--model", str(model_path), "--explain", str(out)]
    assert predict.main(words) == 0
    printed, err = capsys.readouterr()
    best = [line.split("%")[0].split()[-2] for line in printed.splitlines()]
    assert len(best) == 6
    assert err == f"{out} shows the first 4 of 6 pictures\n"
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert [title.split()[0] for title in figure.call_args.args[2]] == best[:4]
    predict.main(words)
    assert out.read_bytes() == first
    out.unlink()
    assert predict.main(["missing.png", *words[1:]]) == 1
    assert f"{out} is not written" in capsys.readouterr().err
    assert not out.exists()


def predicted(*words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the command with these words, in ASCII, on the CPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tools.predict", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, cwd=ROOT, env=environment, **options)


@pytest.mark.slow
def test_pipes_and_names_beyond_ascii(folder: Path, model: ResNet, model_path: Path) -> None:
    name = folder / "é.png"
    (folder / "b.png").rename(name)
    words = (str(name), "-", "--model", str(model_path), "--top", "1")
    done = predicted(*words, input=name.read_bytes(), stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    share, label = by_hand(model, noise(32, 32)[None]).softmax(1)[0].max(0)
    shown = [CLASSES[int(label)], f"{share:.1%}"]
    lines = done.stdout.decode().splitlines()
    assert [line.split() for line in lines] == [[str(folder / "\\xe9.png"), *shown], ["-", *shown]]


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(folder: Path, model_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = predicted(str(folder), "--model", str(model_path), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
