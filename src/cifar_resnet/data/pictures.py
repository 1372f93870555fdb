"""From picture files of any kind to the images that the network sees."""

import struct
import warnings
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

WHITE = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535, "F": 1}  # grey of more than 8 bits
PROGRAMS = {"EPS", "PDF"}  # Pillow reads EPS by Ghostscript, which runs what the file says


class UnreadableError(ValueError):
    """A file is no picture that Pillow can decode; the message is the reason."""


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more bits, scaled to 0..255; Pillow's own conversion would cut it off at 255."""
    white = WHITE[image.mode]
    grey = np.asarray(image, np.float32)
    if not (grey.min() >= 0 and grey.max() <= white):  # false for NaN too
        raise UnreadableError(f"its pixels (Pillow's mode {image.mode}) do not lie between 0 and {white}")
    return Image.fromarray((grey * (255 / white)).round().astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF says, which says nothing where it is damaged."""
    image.load()
    with suppress(SyntaxError, ValueError, struct.error):
        image.getexif()  # Pillow remembers what it has read
    for name in ("exif", "Raw profile type exif"):
        image.info.pop(name, None)  # Pillow would write it again, and stop at a tag that it cannot write
    return ImageOps.exif_transpose(image)


def convert(image: Image.Image, size: int) -> Tensor:
    """Return the picture as a (3, S, S) uint8 tensor, red, green and blue. `size`: S, in pixels.

    Upright as its EXIF says; the first frame of an animation; over white where it is transparent. The short
    side is resized to S, bicubic and antialiased; of the long side the middle is kept. S x S pixels stay as
    they are.
    """
    image = _upright(image)
    if image.mode in WHITE:
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    # Resized whole, a strip of 1 by 1,000,000 pixels would take 3 GB. As much is cut off at both of its ends.
    short = min(image.size)
    width, height = (min(side, 3 * short + (side - short) % 2) for side in image.size)
    image = functional.center_crop(image, [height, width]).convert("RGB")
    image = functional.resize(image, [size], InterpolationMode.BICUBIC)
    pixels: Tensor = functional.pil_to_tensor(functional.center_crop(image, [size]))
    return pixels.contiguous()


def read(file: BinaryIO, size: int) -> Tensor:
    """Return the picture in a file of any format that Pillow reads, as `convert` does.

    Raises UnreadableError when it is no such picture, damaged, or larger than `PIL.Image` takes for safe.
    """
    if not file.seekable():
        file = BytesIO(file.read())
    file.seek(0)
    if not file.read(1):
        raise UnreadableError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what it reads nevertheless
            with Image.open(file, formats=_formats()) as image:
                return convert(image, size)
    except UnidentifiedImageError:
        raise UnreadableError("not a picture in a format that Pillow reads") from None
    except Exception as error:  # decoders raise anything at damaged files, from SyntaxError to struct.error
        raise UnreadableError(str(error) or type(error).__name__) from error


@cache
def _formats() -> list[str]:
    """What Pillow opens by itself."""
    Image.init()
    return [kind for kind in Image.ID if kind not in PROGRAMS]


def is_picture(path: Path) -> bool:
    """Return whether a file begins as a picture does, whatever its name is."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def extensions() -> tuple[str, ...]:
    """Return the file name extensions, such as ".png", of what `read` can read."""
    known = {*_formats(), "MPO"}  # which is opened as JPEG
    return tuple(name for name, kind in Image.registered_extensions().items() if kind in known)
