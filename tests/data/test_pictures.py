"""Pictures of any kind become the images that the network sees."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.data import pictures
from tests.serving.conftest import noise, picture, stored


def middle(pixels: Tensor) -> Tensor:
    """What torchvision makes of it."""
    bicubic = functional.InterpolationMode.BICUBIC
    cropped: Tensor = functional.center_crop(functional.resize(pixels, 32, bicubic, antialias=True), 32)
    return cropped


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (45, 36), (1, 1), (2, 3000)])
def test_the_short_side_is_resized_and_the_middle_kept_as_by_torchvision(height: int, width: int) -> None:
    pixels = noise(height, width)
    found = pictures.read(stored(picture(pixels), "PNG"), 32)
    assert found.is_contiguous()
    assert found.shape == (3, 32, 32)
    assert (found.int() - middle(pixels).int()).abs().max() <= (0 if height == width == 32 else 1)


def test_a_strip_needs_no_more_memory_than_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 2_000_001, 2
    strip = Image.new("RGB", (width, height), "red")
    part = noise(*(min(side, 300 + side % 2) for side in (height, width)))  # as even or odd
    strip.paste(picture(part), ((width - part.shape[2]) // 2, (height - part.shape[1]) // 2))
    resized: list[Image.Image] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        resized.append(resize(image, *arguments, **options))
        return resized[-1]

    monkeypatch.setattr(Image.Image, "resize", noted)
    found = pictures.convert(strip, 32)
    assert [max(image.size) <= 4 * 32 for image in resized] == [True]
    assert (found.int() - middle(part).int()).abs().max() <= 1


# A TIFF head, the number of tags, an orientation of 6 (to be shown turned by 90 degrees clockwise), the end.
TURNED = ["4d4d002a 00000008", "0001", "0112 0003 00000001 00060000", "00000000"]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_photo_lies_as_its_exif_says_and_a_damaged_one_costs_no_photo(kind: str) -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    text_as_number = "011a 0001 00000004 61626364"  # a tag that Pillow reads and cannot write
    damaged = [TURNED[0], "0002", TURNED[2], text_as_number, TURNED[3]]
    for exif, turns in ((TURNED, -1), (damaged, -1), (["00", *TURNED], 0), (TURNED[:2], 0)):
        content = bytes.fromhex("".join(exif))
        found = pictures.read(stored(picture(pixels), kind, exif=content, lossless=True), 32)
        assert torch.equal(found, pixels.rot90(turns, (1, 2))), exif


def test_palette_and_grey_pictures_have_the_colours_that_they_show() -> None:
    grey = torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8)
    for image in (Image.fromarray(grey[0].numpy()), Image.fromarray(grey[0].numpy()).convert("P")):
        assert torch.equal(pictures.read(stored(image, "PNG"), 32), grey.expand(3, -1, -1))
    bits = Image.fromarray(grey[0].numpy() > 127)
    assert torch.equal(pictures.read(stored(bits, "PNG"), 32), (grey > 127).expand(3, -1, -1) * 255)
    palette = Image.new("P", (50, 50), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pictures.read(stored(palette, "GIF"), 32)[:, 5, 5].tolist() == [10, 200, 30]
    assert pictures.read(stored(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), 32)[0].eq(255).all()


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 16, 32))
    image.putpixel((31, 31), (0, 0, 0, 128))
    found = pictures.read(stored(image, "PNG"), 32)
    for x, y, expected in ((0, 0, [255, 0, 0]), (20, 0, [255] * 3), (31, 31, [127] * 3)):
        assert found[:, y, x].tolist() == expected
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pictures.read(stored(palette, "PNG", transparency=1), 32).eq(255).all()


def test_16_bits_and_floating_point_pixels_are_scaled_to_8_bits() -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "PPM"):
        found = pictures.read(stored(Image.fromarray(ramp), kind), 32)
        assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51, kind
    found = pictures.read(stored(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), 32)
    assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51

    for value in (-0.1, 255, np.nan):  # of unknown scale
        unknown = Image.fromarray(np.full((32, 32), value, np.float32))
        with pytest.raises(pictures.UnreadableError, match="do not lie between 0 and 1"):
            pictures.read(stored(unknown, "TIFF"), 32)


def test_a_format_that_starts_a_program_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    content = stored(Image.new("RGB", (32, 32)), "EPS")
    with pytest.raises(pictures.UnreadableError, match="not a picture in a format"):
        pictures.read(content, 32)
    assert not started
    assert {".eps", ".ps", ".pdf"}.isdisjoint(pictures.extensions())
    assert {".png", ".jpg", ".mpo", ".tiff"} <= set(pictures.extensions())
