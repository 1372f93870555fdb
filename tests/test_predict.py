"""Pictures of any kind, the command that classifies them, and the maps that explain it."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet import explanation, pictures, predict, tensorfile
from cifar_resnet.inference import NormalizationConfig, build_normalization
from cifar_resnet.model import ModelConfig, ResNet, build_model
from stages import files
from tools.scratch import ROOT

CPU = torch.device("cpu")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ABOUT: dict[str, Any] = {
    "classes": CLASSES,
    "model": {"width": 8, "blocks": [1, 2, 1, 1]},
    "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """(3, height, width) uint8, smooth enough to survive a resize."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8, generator=generator)
    pixels: Tensor = functional.resize(coarse, [height, width], functional.InterpolationMode.BILINEAR)
    return pixels


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def stored(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


@pytest.fixture(scope="module")
def model() -> ResNet:
    """In evaluation mode, with running statistics and opinions of its own."""
    config = ModelConfig(**ABOUT["model"])
    network = build_model(config, len(CLASSES), torch.Generator().manual_seed(0))
    network.train()(torch.stack([noise(32, 32, seed) for seed in range(32)]).float() / 100)
    torch.nn.init.normal_(network.fc.weight, std=1, generator=torch.Generator().manual_seed(1))
    return network.eval()


@pytest.fixture(scope="module")
def model_path(model: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tensorfile.write(path, dict(model.state_dict()), ABOUT)
    return path


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_a_picture_of_32_by_32_pixels_stays_as_it_is(kind: str) -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    image = pictures.read(stored(picture(pixels), kind))
    assert image.is_contiguous()
    assert torch.equal(image, pixels)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (40, 100), (480, 320), (32, 48), (20, 30), (45, 36), (1, 1), (2, 3000)]
)
def test_the_short_side_is_resized_and_the_middle_kept_as_by_torchvision(height: int, width: int) -> None:
    pixels = noise(height, width)
    bicubic = functional.InterpolationMode.BICUBIC
    expected = functional.center_crop(functional.resize(pixels, 32, bicubic, antialias=True), 32)
    found = pictures.read(stored(picture(pixels), "PNG"))
    assert found.shape == (3, 32, 32)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_photo_lies_as_its_exif_orientation_says() -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    found = pictures.read(stored(picture(pixels), "PNG", exif=exif))
    assert torch.equal(found, pixels.rot90(-1, (1, 2)))


def test_palette_and_grey_pictures_have_the_colours_that_they_show() -> None:
    grey = torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8)
    for image in (Image.fromarray(grey[0].numpy()), Image.fromarray(grey[0].numpy()).convert("P")):
        assert torch.equal(pictures.read(stored(image, "PNG")), grey.expand(3, -1, -1))
    bits = Image.fromarray(grey[0].numpy() > 127)
    assert torch.equal(pictures.read(stored(bits, "PNG")), (grey > 127).expand(3, -1, -1) * 255)
    palette = Image.new("P", (50, 50), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pictures.read(stored(palette, "GIF"))[:, 5, 5].tolist() == [10, 200, 30]
    assert pictures.read(stored(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"))[0].eq(255).all()


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 16, 32))
    image.putpixel((31, 31), (0, 0, 0, 128))
    found = pictures.read(stored(image, "PNG"))
    assert found[:, 0, 0].tolist() == [255, 0, 0]
    assert found[:, 0, 20].tolist() == [255, 255, 255]
    assert found[:, 31, 31].tolist() == [127, 127, 127]
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pictures.read(stored(palette, "PNG", transparency=1)).eq(255).all()


def test_16_bits_are_scaled_to_8() -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF", "PPM"):
        found = pictures.read(stored(Image.fromarray(ramp), kind))
        assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51, kind
    found = pictures.read(stored(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"))
    assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51


@pytest.mark.parametrize("value", [-0.1, 255, np.nan])
def test_floating_point_pixels_of_unknown_scale_are_refused(value: float) -> None:
    pixels = np.full((32, 32), value, np.float32)
    with pytest.raises(pictures.UnreadableError, match="do not lie between 0 and 1"):
        pictures.read(stored(Image.fromarray(pixels), "TIFF"))


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "TIFF"):
        found = pictures.read(stored(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert found[:, 5, 5].tolist() == [255, 0, 0], kind


def by_hand(model: ResNet, images: Tensor) -> Tensor:
    """The logits of (N, 3, 32, 32) uint8 images without the code under test."""
    mean, std = (ABOUT["normalization"][name] for name in ("mean", "std"))
    with torch.no_grad():
        logits: Tensor = model(functional.normalize(images / 255, mean, std))
    return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures in a folder and below, beside what is none."""
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for seed, name in enumerate(["b.png", "a.bmp", "C.TIFF", "d e.png", "deeper/a.png", "deeper/b.png"]):
        picture(noise(32, 32, seed)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def json_lines(text: str) -> list[tuple[str, dict[str, float]]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [(x["path"], {y["class"]: y["probability"] for y in x["predictions"]}) for x in lines]


@pytest.mark.parametrize("batch", [4, 64])
def test_predictions_of_a_folder_are_those_of_the_network(
    folder: Path, model: ResNet, model_path: Path, batch: int, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCH", batch)
    assert predict.main([str(folder), "--model", str(model_path), "--json", "--top", "99"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json_lines(out)
    order = [
        (2, "C.TIFF"),
        (1, "a.bmp"),
        (0, "b.png"),
        (3, "d e.png"),
        (4, "deeper/a.png"),
        (5, "deeper/b.png"),
    ]
    assert [path for path, _ in found] == [str(folder / name) for _, name in order]
    probabilities = by_hand(model, torch.stack([noise(32, 32, seed) for seed, _ in order])).softmax(1)
    assert probabilities.max(1).values.std() > 0.05  # opinions that differ
    for (_, predictions), expected in zip(found, probabilities, strict=True):
        assert list(predictions.values()) == sorted(predictions.values(), reverse=True)
        ours = torch.tensor([predictions[name] for name in CLASSES])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_a_line_names_the_path_and_the_best_classes(
    folder: Path, model: ResNet, model_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert predict.main(["b.png", "./deeper/b.png", "--model", str(model_path), "--top", "2"]) == 0
    expected = ""
    for path, seed in (("b.png         ", 0), ("./deeper/b.png", 5)):
        shares, labels = by_hand(model, noise(32, 32, seed)[None]).softmax(1)[0].topk(2)
        pairs = zip(labels.tolist(), shares.tolist(), strict=True)
        expected += "  ".join([path, *(f"{CLASSES[label]:10} {share:6.1%}" for label, share in pairs)]) + "\n"
    assert capsys.readouterr() == (expected, "")


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
    scandir = os.scandir

    def locked(path: str) -> Any:
        if Path(path).name == "deeper":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    *found, (path, reason) = pictures.find(str(folder))
    assert len(found) == 4
    assert path == str(folder / "deeper")
    assert isinstance(reason, pictures.UnreadableError)
    assert str(reason) == "Permission denied"


def test_a_network_that_cannot_be_read_is_one_line(
    model: ResNet, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damaged = bytearray(model_path.read_bytes())
    damaged[-5] ^= 1
    Path("damaged").write_bytes(damaged)
    with pytest.raises(
        SystemExit, match=r"^error: models/resnet50\.safetensors is missing; `dvc repro` trains it"
    ):
        predict.main(["x.png"])
    Path("models").mkdir()
    Path("models/resnet50.safetensors").write_bytes(damaged)
    tensorfile.write(Path("images"), {"images": torch.zeros(1)}, {"classes": CLASSES})
    narrow = ABOUT | {"model": {"width": 4, "blocks": [1, 2, 1, 1]}}
    tensorfile.write(Path("other"), dict(model.state_dict()), narrow)
    messages = {
        "models/resnet50.safetensors": "is damaged: .*; `dvc repro --force train` makes it anew",
        "nowhere": "nowhere is missing; .* `--model PATH` names another",
        ".": "Is a directory",
        "damaged": "damaged is damaged: its SHA-256 is not the one it was written with$",
        "images": "images holds no trained network",
        "other": "other: the weights do not fit a network of width 4",
    }
    for path, message in messages.items():
        with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
            predict.main(["x.png", "--model", path])
        assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a.png", "--top", "0"],
        ["a.png", "--explain", "a.jpg"],
        ["a.png", "--explain", "./a.png"],
        ["a.png", "--explain", "nowhere/b.png"],
    ],
)
def test_wrong_usage_ends_with_status_2(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        predict.main(words)
    assert stopped.value.code == 2
    assert "usage: python -m cifar_resnet.predict" in capsys.readouterr().err


def grad_cam_by_hand(model: ResNet, images: Tensor, classes: Tensor) -> Tensor:
    """The (N, 4, 4) maps by plain autograd: gradients averaged over space weigh the activations; ReLU."""
    x = functional.normalize(images / 255, **ABOUT["normalization"])
    x = model.relu(model.bn1(model.conv1(x)))
    activations = model.layer4(model.layer3(model.layer2(model.layer1(x)))).detach().requires_grad_()
    logits = model.fc(model.avgpool(activations).flatten(1))
    maps = []
    for i, label in enumerate(classes.tolist()):
        gradients = torch.autograd.grad(logits[i, label], activations, retain_graph=True)[0][i]
        weights = gradients.mean((1, 2), keepdim=True)
        maps.append((weights * activations[i].detach()).sum(0).relu())
    return torch.stack(maps)


def test_the_maps_are_grad_cams(model: ResNet) -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(8)])
    for classes in (by_hand(model, images).argmax(1), torch.arange(8)):
        normalization = build_normalization(NormalizationConfig(**ABOUT["normalization"]), CPU)
        maps = explanation.grad_cam(model, images, normalization, classes)
        assert maps.shape == (8, 32, 32)
        coarse = grad_cam_by_hand(model, images, classes)
        assert coarse.flatten(1).max(1).values.gt(0).sum() >= 4  # else there is nothing to compare
        place = (np.mgrid[:32, :32] + 0.5) / 8  # cell i lies around pixel 8 i
        expected = [ndimage.map_coordinates(x.numpy(), place, order=1, mode="nearest") for x in coarse]
        torch.testing.assert_close(maps, torch.tensor(np.stack(expected)), rtol=1e-4, atol=1e-5)


def test_a_cell_of_the_last_block_looks_around_8_times_its_place(model: ResNet) -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(8)]).div(255).requires_grad_()
    x = model.relu(model.bn1(model.conv1(images)))
    activations = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    for cell in (1, 2, 3):
        (gradient,) = torch.autograd.grad(activations[:, :, cell, cell].sum(), images, retain_graph=True)
        strength = gradient.abs().sum((0, 1, 3))
        assert abs((strength * torch.arange(32)).sum() / strength.sum() - 8 * cell) < 1.5


def test_the_explanation_shows_the_first_pictures(
    folder: Path, model_path: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCH", 4)
    drawn = []
    figure = explanation.figure

    def noted_figure(images: Tensor, maps: Tensor, titles: list[str]) -> Figure:
        drawn.append(titles)
        return figure(images, maps, titles)

    monkeypatch.setattr(explanation, "figure", noted_figure)
    out = tmp_path / "out.png"
    words = [str(folder), "--model", str(model_path), "--explain", str(out)]
    assert predict.main(words) == 0
    printed, err = capsys.readouterr()
    assert len(printed.splitlines()) == 6
    assert err == f"{out} shows the first 4 of 6 pictures\n"
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    rows = [line.removeprefix(str(folder)).split() for line in printed.splitlines()[:4]]
    assert [title.split()[0] for (title,) in zip(*drawn, strict=True)] == [
        next(word for word in row if word in CLASSES) for row in rows
    ]
    predict.main(words)
    assert out.read_bytes() == first


def test_the_figure_pairs_each_image_with_its_map() -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(5)])
    maps = torch.rand(5, 32, 32)
    maps[2] = 0  # nothing spoke for it
    titles = [f"cat {i}%" for i in range(5)]
    cells = explanation.figure(images, maps, titles).axes
    shown = [cell for cell in cells if cell.get_images()]
    assert [cell.get_title("left") for cell in shown[::2]] == titles
    for i, (left, right) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
        assert np.array_equal(np.asarray(left.get_images()[0].get_array()), images[i].permute(1, 2, 0))
        assert np.array_equal(np.asarray(right.get_images()[1].get_array()), maps[i])


def test_no_picture_to_explain_is_said(model_path: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.png"
    assert predict.main(["missing.png", "--model", str(model_path), "--explain", str(out)]) == 1
    assert f"{out} is not written" in capsys.readouterr().err
    assert not out.exists()


def environment() -> dict[str, str]:
    here = {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return dict(os.environ) | here


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cifar_resnet.predict", *words]


def test_a_picture_comes_through_a_pipe(model: ResNet, model_path: Path) -> None:
    content = stored(picture(noise(32, 32)), "PNG").getvalue()
    words = command("-", "--model", str(model_path), "--json", "--top", "1")
    done = subprocess.run(words, input=content, capture_output=True, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")
    ((path, predictions),) = json_lines(done.stdout.decode())
    share, label = by_hand(model, noise(32, 32)[None]).softmax(1)[0].max(0)
    assert path == "-"
    assert predictions == {CLASSES[int(label)]: pytest.approx(share.item(), abs=1e-5)}


def test_a_reader_that_goes_away_ends_it_quietly(folder: Path, model_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = command(str(folder), "--model", str(model_path))
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, env=environment())
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_nothing_heavy_is_loaded_in_vain(folder: Path, model_path: Path) -> None:
    script = f"""
import sys
from cifar_resnet import predict
try:
    predict.main(["--help"])
except SystemExit as stopped:
    assert stopped.code == 0
assert "torch" not in sys.modules and "PIL" not in sys.modules
assert predict.main([{str(folder)!r}, "--model", {str(model_path)!r}]) == 0
assert "torch" in sys.modules and not {{"captum", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment(), text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_default_model_is_the_one_that_train_writes() -> None:
    assert predict.MODEL == files.MODEL
