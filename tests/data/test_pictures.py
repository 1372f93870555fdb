"""Pictures of any kind become the images that the network sees."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from cifar_resnet.data import pictures
from tests.serving.conftest import noise, picture, stored


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_a_picture_of_32_by_32_pixels_stays_as_it_is(kind: str) -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    image = pictures.read(stored(picture(pixels), kind), 32)
    assert image.is_contiguous()
    assert torch.equal(image, pixels)


@pytest.mark.parametrize(("height", "width"), [(40, 100), (45, 36), (1, 1), (2, 3000)])
def test_the_short_side_is_resized_and_the_middle_kept_as_by_torchvision(height: int, width: int) -> None:
    pixels = noise(height, width)
    bicubic = functional.InterpolationMode.BICUBIC
    expected = functional.center_crop(functional.resize(pixels, 32, bicubic, antialias=True), 32)
    found = pictures.read(stored(picture(pixels), "PNG"), 32)
    assert found.shape == (3, 32, 32)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_strip_needs_no_more_memory_than_its_middle() -> None:
    height, width = 2_000_001, 2
    strip = Image.new("RGB", (width, height), "red")
    middle = noise(*(min(side, 300 + side % 2) for side in (height, width)))  # as even or odd
    strip.paste(picture(middle), ((width - middle.shape[2]) // 2, (height - middle.shape[1]) // 2))
    resized: list[Image.Image] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        resized.append(resize(image, *arguments, **options))
        return resized[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", noted)
        found = pictures.convert(strip, 32)
    assert [max(image.size) <= 4 * 32 for image in resized] == [True]
    bicubic = functional.InterpolationMode.BICUBIC
    expected = functional.center_crop(functional.resize(middle, 32, bicubic, antialias=True), 32)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_photo_lies_as_its_exif_orientation_says() -> None:
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    found = pictures.read(stored(picture(pixels), "PNG", exif=exif), 32)
    assert torch.equal(found, pixels.rot90(-1, (1, 2)))


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
    assert found[:, 0, 0].tolist() == [255, 0, 0]
    assert found[:, 0, 20].tolist() == [255, 255, 255]
    assert found[:, 31, 31].tolist() == [127, 127, 127]
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pictures.read(stored(palette, "PNG", transparency=1), 32).eq(255).all()


def test_16_bits_are_scaled_to_8() -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "PPM"):
        found = pictures.read(stored(Image.fromarray(ramp), kind), 32)
        assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51, kind
    found = pictures.read(stored(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), 32)
    assert found.float().sub(torch.from_numpy(ramp / 257).float()).abs().max() <= 0.51


@pytest.mark.parametrize("value", [-0.1, 255, np.nan])
def test_floating_point_pixels_of_unknown_scale_are_refused(value: float) -> None:
    pixels = np.full((32, 32), value, np.float32)
    with pytest.raises(pictures.UnreadableError, match="do not lie between 0 and 1"):
        pictures.read(stored(Image.fromarray(pixels), "TIFF"), 32)
