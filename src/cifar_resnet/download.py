"""CIFAR-10 from the first source that has it; a broken download is resumed."""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

from cifar_resnet import archive

if TYPE_CHECKING:
    import requests

TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a byte
FRUITLESS = 5  # attempts in a row that bring no new byte
ATTEMPTS = 100  # broken downloads of one URL in all
BACKOFF = 1.0  # seconds, doubled by each fruitless attempt
LONGEST_PAUSE = 60  # seconds; caps the backoff and the server's Retry-After
BLOCK = 2**20  # bytes


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


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _serve(source: str, folder: Path, cache: Path) -> None:
    """Writes the verified files of one source into `folder`; a ValueError is why to try the next source."""
    url = urlsplit(source)
    if url.scheme == "file":
        archive.unpack(Path(unquote(url.path)), folder)
    elif url.scheme not in ("http", "https"):
        archive.unpack(Path(source).expanduser(), folder)
    else:
        part = cache / f"{_key(source)}.part"
        with FileLock(part.with_suffix(".lock")):
            # What an earlier call left may be damaged: then a second, whole download judges the server.
            for whole in [False, True] if _size(part) else [True]:
                _download(source, part)
                try:
                    archive.unpack(part, folder)
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
    head = b"" if start else response.raw.read(len(archive.GZIP))
    if not archive.GZIP.startswith(head):
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
            if file.tell() > archive.ARCHIVE_LIMIT:
                _discard(part)
                raise ValueError(f"larger than {archive.ARCHIVE_LIMIT} bytes")
        return total is None or file.tell() >= total
