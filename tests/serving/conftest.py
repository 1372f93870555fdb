"""A small network, pictures, and what the network says of them without the code under test."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet import files
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ABOUT: dict[str, Any] = {
    "classes": CLASSES,
    "model": {"width": 8, "blocks": [1, 2, 1, 1]},
    "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


PICTURES = ["b.png", "a.bmp", "C.TIFF", "d e.png", "deeper/a.png", "deeper/b.png"]


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


@pytest.fixture(scope="session")
def model() -> ResNet:
    """In evaluation mode, with running statistics and opinions of its own."""
    config = ResNetConfig(**ABOUT["model"])
    network = build_model(config, len(CLASSES), torch.Generator().manual_seed(0))
    assert isinstance(network, ResNet)
    network.train()(torch.stack([noise(32, 32, seed) for seed in range(32)]).float() / 100)
    torch.nn.init.normal_(network.fc.weight, std=1, generator=torch.Generator().manual_seed(1))
    return network.eval()


@pytest.fixture(scope="session")
def model_path(model: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    files.write_tensors(path, dict(model.state_dict()), ABOUT)
    return path


def by_hand(model: ResNet, images: Tensor) -> Tensor:
    """The logits of (N, 3, 32, 32) uint8 images in float64, without the code under test."""
    with torch.no_grad():
        pixels = functional.normalize(images.double() / 255, **ABOUT["normalization"])
        logits: Tensor = copy.deepcopy(model).double()(pixels)
    return logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in a folder and below, beside what is none."""
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for seed, name in enumerate(PICTURES):
        picture(noise(32, 32, seed)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def json_lines(text: str) -> list[tuple[str, dict[str, float]]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [(x["path"], {y["class"]: y["probability"] for y in x["predictions"]}) for x in lines]
