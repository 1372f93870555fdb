"""The command that says what pictures show, run in this process."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network.resnet import ResNet
from cifar_resnet.serving import explanation, pictures, predict
from tests.serving.conftest import CLASSES, PICTURES, by_hand, json_lines, noise, picture, stored


def test_predictions_of_a_folder_are_those_of_the_network(
    folder: Path, model: ResNet, model_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCH", 4)
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
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


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
    (tmp_path / "bare" / "notes.txt").touch()
    reasons = {
        "cut.jpg": "image file is truncated",
        "text.png": "not a picture in a format that Pillow reads",
        "missing.png": "No such file or directory",
        "empty.gif": "the file is empty",
        "bomb.png": "decompression bomb",
        "bare": "no picture in this folder",
    }
    monkeypatch.chdir(tmp_path)
    assert predict.main([*reasons, "large.png", "in/b.png", "--model", str(model_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [path for path, _ in json_lines(out)] == ["large.png", "in/b.png"]
    assert len(err.splitlines()) == len(reasons)
    for line, (path, reason) in zip(err.splitlines(), reasons.items(), strict=True):
        assert line.startswith(f"error: {path}: ")
        assert reason in line


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(13, "Permission denied", str(folder / "deeper"))
    monkeypatch.setattr(os, "scandir", mock.Mock(side_effect=[os.scandir(folder), denied]))
    *found, (path, reason) = pictures.find(str(folder), 32)
    assert len(found) == 4
    assert (path, str(reason)) == (str(folder / "deeper"), "Permission denied")


def test_a_network_that_cannot_be_read_is_the_users_error(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damaged = bytearray(model_path.read_bytes())
    damaged[-5] ^= 1
    Path("damaged").write_bytes(damaged)
    files.write_tensors(Path("images"), {"images": torch.zeros(1)}, {"classes": CLASSES})
    for path, told in {
        "nowhere": "is missing$",
        "damaged": "is damaged",
        "images": "no trained network",
    }.items():
        with pytest.raises(UserError, match=f"^{path} .*{told}"):
            predict.main(["x.png", "--model", path])
    with pytest.raises(IsADirectoryError):
        predict.main(["x.png", "--model", "."])


@pytest.mark.parametrize(
    "words",
    [["--top", "0"], ["--explain", "a.jpg"], ["--explain", "./a.png"], ["--explain", "nowhere/b.png"]],
)
def test_wrong_usage_ends_with_status_2(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        predict.main(["a.png", *words])
    assert stopped.value.code == 2
    assert "usage: python -m tools.predict" in capsys.readouterr().err


def test_the_explanation_shows_the_first_pictures(
    folder: Path, model_path: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCH", 4)
    figure = mock.Mock(wraps=explanation.figure)
    monkeypatch.setattr(explanation, "figure", figure)
    out = tmp_path / "out.png"
    words = [str(folder), "--model", str(model_path), "--explain", str(out)]
    assert predict.main(words) == 0
    printed, err = capsys.readouterr()
    assert len(printed.splitlines()) == 6
    assert err == f"{out} shows the first 4 of 6 pictures\n"
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    _, _, titles = figure.call_args.args
    for title, line in zip(titles, printed.splitlines()[:4], strict=True):
        best, *_ = line.removeprefix(str(folder)).split("%")[0].split()[-2:]
        assert title.split()[0] == best
    predict.main(words)
    assert out.read_bytes() == first
    out.unlink()
    assert predict.main(["missing.png", *words[1:]]) == 1
    assert f"{out} is not written" in capsys.readouterr().err
    assert not out.exists()
