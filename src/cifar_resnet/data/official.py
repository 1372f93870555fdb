"""The seven official CIFAR-10 files out of a folder or a tar archive, checked by SHA-256, never unpickled.

sources.py downloads the archive.
Published at https://www.cs.toronto.edu/~kriz/cifar.html; the hashes are those of the files, so any archive or
folder that holds them is as good.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cifar_resnet import files

FOLDER = "cifar-10-batches-py"
SHA256 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    "batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
}
ARCHIVE_LIMIT = 256 * 2**20  # bytes, packed or unpacked; the official archive has 170 and 186 million
MEMBER_LIMIT = 64 * 2**20  # bytes; the largest official file has 31,035,999; a sparse one can claim any size
GZIP = b"\x1f\x8b"  # how every gzip file begins, RFC 1952


class SourceError(Exception):
    """Why a source cannot serve; the next one may."""


def unpack(source: Path, folder: Path) -> None:
    """Write the seven files of a folder or tar archive into `folder`, once their SHA-256 is right.

    Raises SourceError when `source` lacks one or cannot be read, OSError when `folder` cannot be written.
    """
    missing = dict(SHA256)
    for name, content in _members(source):
        if name in missing:
            digest, right = hashlib.sha256(content).hexdigest(), missing.pop(name)
            if digest != right:
                raise SourceError(f"{name} is not the official file: SHA-256 {digest[:12]}, not {right[:12]}")
            files.write_bytes(folder / name, content)
        if not missing:
            return
    raise SourceError(f"it holds no file {FOLDER}/{min(missing)}")


def _regular(path: Path) -> Path:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise SourceError(f"{path.name} is no file")
    return path


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Give (name, content) of the files in `source` that are called as the official ones.

    Every error is a SourceError: what is read here is apart from what is written. Nothing is written to a
    path that an archive names, and links in it are passed over.
    """
    try:
        if source.is_dir():
            inner = source / FOLDER if (source / FOLDER).is_dir() else source
            yield from ((name, _regular(inner / name).read_bytes()) for name in SHA256)
            return
        with _regular(source).open("rb") as file:
            packed = file.peek(len(GZIP)).startswith(GZIP)
            content = (gzip.GzipFile(fileobj=file) if packed else file).read(ARCHIVE_LIMIT + 1)
        if len(content) > ARCHIVE_LIMIT:
            raise SourceError(f"it would unpack to more than {ARCHIVE_LIMIT} bytes")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if member.size > MEMBER_LIMIT:
                    raise SourceError(f"{member.name!r} would unpack to {member.size} bytes")
                path = PurePosixPath(member.name)
                if member.isreg() and path.parent.name == FOLDER and path.name in SHA256:
                    opened = archive.extractfile(member)
                    yield path.name, opened.read() if opened else b""
    # tarfile lets a ValueError through where a header's number is none, and recurses for PAX records.
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError) as error:
        raise SourceError(f"unreadable: {error}") from error
