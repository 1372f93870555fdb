"""The seven official CIFAR-10 files from the first source that has them, checked by SHA-256, never unpickled.

Published at https://www.cs.toronto.edu/~kriz/cifar.html; any archive or folder that holds them is as good.
"""

import gzip
import hashlib
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

if TYPE_CHECKING:
    import requests

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
TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a byte
FRUITLESS = 5  # attempts in a row that bring no new byte
ATTEMPTS = 100  # broken downloads of one URL in all
BACKOFF = 1.0  # seconds, doubled by each fruitless attempt
LONGEST_PAUSE = 60  # seconds; caps the backoff and the server's Retry-After
ARCHIVE_LIMIT = 512 * 2**20  # bytes, packed or unpacked; the official archive has 170 and 186 million
MEMBER_LIMIT = 64 * 2**20  # bytes; the largest official file has 31,035,999
BLOCK = 2**20  # bytes
GZIP = b"\x1f\x8b"  # how every gzip file begins, RFC 1952


def fetch_cifar10(sources: Sequence[str], destination: Path, cache: Path) -> str:
    """The source that served the seven files; they replace the folder `destination` by a rename.

    A source is a folder that holds `cifar-10-batches-py`, that folder itself, a tar or tar.gz, or the http(s)
    or file URL of a tar.gz. A download that breaks stays in `cache`, and the next call resumes it.
    Raises ValueError with each source's reason when all failed, and OSError when `destination` or `cache`
    cannot be written, which no other source would mend.
    """
    cache.mkdir(parents=True, exist_ok=True)
    workspace = destination.with_name(f".{destination.name}.tmp")
    reasons = []
    with FileLock(cache / f"{_key(str(destination.resolve()))}.lock"):
        try:
            for source in sources:
                shutil.rmtree(workspace, ignore_errors=True)
                files = workspace / "new"
                files.mkdir(parents=True)
                try:
                    _serve(source, files, cache)
                except ValueError as error:
                    reasons.append(f"{source}: {error}")
                    continue
                if os.path.lexists(destination):
                    destination.rename(workspace / "old")
                files.rename(destination)
                return source
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    failures = " ".join("; ".join(reasons).split())
    raise ValueError(
        f"no CIFAR-10 source worked ({failures}): set CIFAR10_SOURCE to a folder or tar.gz you have"
    )


def verify(folder: Path) -> None:
    """Raises ValueError that names the first of the seven files that is missing or altered, and the fix."""
    for name in SHA256:
        try:
            with (folder / name).open("rb") as file:
                _check(name, hashlib.file_digest(file, "sha256").hexdigest())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: {error}; run `dvc repro --force fetch`") from error


def _check(name: str, digest: str) -> None:
    if digest != SHA256[name]:
        raise ValueError(f"{name} is not the official file: SHA-256 {digest[:12]}, not {SHA256[name][:12]}")


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _serve(source: str, folder: Path, cache: Path) -> None:
    """Writes the verified files of one source into `folder`; a ValueError is why to try the next source."""
    url = urlsplit(source)
    if url.scheme == "file":
        _unpack(Path(unquote(url.path)), folder)
    elif url.scheme not in ("http", "https"):
        _unpack(Path(source).expanduser(), folder)
    else:
        part = cache / f"{_key(source)}.part"
        with FileLock(part.with_suffix(".lock")):
            # What an earlier call left may be damaged: then a second, whole download judges the server.
            for whole in [False, True] if _size(part) else [True]:
                _download(source, part)
                try:
                    _unpack(part, folder)
                except ValueError:
                    _discard(part)
                    if whole:
                        raise
                else:
                    _discard(part)
                    return


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".validator").unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(url: str, part: Path) -> None:
    """Completes `part`; ValueError when the server refuses or has failed too often."""
    import requests  # takes 0.2 s
    from urllib3 import Retry
    from urllib3.exceptions import HTTPError

    longest, fruitless = _size(part), 0
    for _ in range(ATTEMPTS):
        reason, pause = "incomplete", 0.0
        try:
            with requests.get(url, headers=_request_headers(part), stream=True, timeout=TIMEOUT) as response:
                if response.status_code in (408, 429, 500, 502, 503, 504):
                    reason = f"HTTP {response.status_code}"
                    pause = Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
                elif _receive(response, part):
                    return
        except (HTTPError, requests.ConnectionError, requests.Timeout) as error:
            reason = _innermost(error)
        except requests.RequestException as error:
            raise ValueError(_innermost(error)) from error
        size = _size(part)
        longest, fruitless = max(longest, size), 0 if size > longest else fruitless + 1
        if fruitless == FRUITLESS:
            break
        time.sleep(min(max(pause, BACKOFF * 2**fruitless), LONGEST_PAUSE))
    raise ValueError(f"{reason}, after {size} bytes and several attempts")


def _innermost(error: BaseException) -> str:
    """`Connection refused` where requests says three lines."""
    while error.__context__:
        error = error.__context__
    return str(error) or type(error).__name__


def _request_headers(part: Path) -> dict[str, str]:
    """Request headers for what `part` lacks, or for the whole if the server's file has changed meanwhile."""
    headers = {"Accept-Encoding": "identity"}  # so that bytes on the wire are bytes of the file
    if start := _size(part):
        note = part.with_suffix(".validator")
        headers["Range"] = f"bytes={start}-"
        if validator := note.read_text() if note.exists() else "":
            headers["If-Range"] = validator
    return headers


def _receive(response: "requests.Response", part: Path) -> bool:
    """Adds the body to `part`, or starts it anew where the server cannot resume; whether it is complete."""
    status, start = response.status_code, _size(part)
    extent = response.headers.get("Content-Range", "")
    etag = response.headers.get("ETag", "W/")  # If-Range may not name a weak ETag, RFC 9110 13.1.5
    validator = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
    same = validator in ("", response.request.headers.get("If-Range", validator))
    if status == 416 and start and extent == f"bytes */{start}":
        return True
    if status == 416 or (status == 206 and not (same and extent.startswith(f"bytes {start}-"))):
        _discard(part)
        return False
    if status not in (200, 206):
        raise ValueError(f"HTTP {status}")
    if status == 200:
        start = 0
    head = b"" if start else response.raw.read(len(GZIP))
    if not GZIP.startswith(head):
        raise ValueError(f"not a gzip archive but {response.headers.get('Content-Type', 'of unknown type')}")
    length = extent.rpartition("/")[2] or response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        if not start:
            part.with_suffix(".validator").write_text(validator)
        # read1 returns what has arrived, so that a cut or a kill loses nothing.
        for block in chain([head], iter(partial(response.raw.read1, BLOCK), b"")):
            bar.update(file.write(block))
            if file.tell() > ARCHIVE_LIMIT:
                _discard(part)
                raise ValueError(f"larger than {ARCHIVE_LIMIT} bytes")
        return total is None or file.tell() >= total


def _unpack(source: Path, folder: Path) -> None:
    """Writes the seven files of a folder or tar archive into `folder`, once their SHA-256 is right."""
    missing = set(SHA256)
    for name, content in _members(source):
        if name in missing:
            _check(name, hashlib.sha256(content).hexdigest())
            with (folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            missing.remove(name)
        if not missing:
            return
    raise ValueError(f"it holds no file {FOLDER}/{min(missing)}")


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in `source`; ValueError where it cannot be read.

    Reading is apart from writing, for a bad source means the next one and a full disk means the end.
    """
    try:
        if source.is_dir():
            folder = source / FOLDER if (source / FOLDER).is_dir() else source
            for name in SHA256:
                yield name, (folder / name).read_bytes()
            return
        with source.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        with (
            _Capped(source) if packed else source.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                if member.size > MEMBER_LIMIT:
                    raise ValueError(f"{member.name!r} would unpack to {member.size} bytes")
                path = PurePosixPath(member.name)
                placed = path.parent.name == FOLDER and not path.is_absolute() and ".." not in path.parts
                content = archive.extractfile(member) if placed and member.isreg() else None
                if content and path.name in SHA256:
                    yield path.name, content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"unreadable: {error}") from error


class _Capped(gzip.GzipFile):
    """Refuses an archive that would fill the disk or the memory, in whatever part of it the bytes are."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > ARCHIVE_LIMIT:
            raise ValueError(f"it would unpack to more than {ARCHIVE_LIMIT} bytes")
        return super().read(size)
