"""CIFAR-10 from the first source that has it: a folder, an archive, a URL whose download can be resumed."""

import hashlib
import re
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import requests
from filelock import FileLock
from pydantic import Field
from tqdm import tqdm
from urllib3.exceptions import HTTPError  # requests lets it through while a body is read

from cifar_resnet import files
from cifar_resnet.data import official
from cifar_resnet.data.official import SourceError
from cifar_resnet.data.synthetic import SyntheticConfig
from cifar_resnet.errors import UserError
from cifar_resnet.params import Config

CACHED_ARCHIVE = "cifar-10-python.tar.gz"
TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a byte
MINUTE, SLOWEST = 60.0, 100_000  # seconds, and the bytes that a server has to give in them: 170 MB in a day
RETRIES = 5  # in a row without a new byte
ATTEMPTS = 100  # requests of one URL in all
BUSY = (408, 429, 500, 502, 503, 504)  # statuses that may pass
BACKOFF = 1.0  # seconds, doubled by each retry
BLOCK = 2**20  # bytes


class FetchConfig(Config):
    """`sources`: folders, archives or URLs, tried in order after the environment variable CIFAR10_SOURCE.

    `folder`: where the pictures of the dataset `folder` lie.
    """

    dataset: Literal["cifar10", "synthetic", "folder"]
    folder: str = Field(min_length=1)
    sources: list[str] = Field(min_length=1)
    synthetic: SyntheticConfig


def fetch_cifar10(sources: Sequence[str], destination: Path, cache: Path) -> str:
    """Return what served the seven files, a source or the cached archive; they replace `destination`.

    A source is a folder that holds `cifar-10-batches-py`, that folder itself, a tar or tar.gz, or the http(s)
    or file URL of a tar.gz. `cache` holds downloads: a broken one, which the next call resumes, and the last
    whole one (170 MB), CACHED_ARCHIVE, which serves instead of any URL: the SHA-256 of the files decides.
    Raises UserError with each source's reason when all failed, OSError when a folder cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    reasons = []
    # Who waited for the lock finds the archive in the cache.
    with FileLock(cache / "downloads.lock"), files.replacing_folder(destination) as new:
        for source in sources:
            try:
                return _without_user(_fetch_from(source, new, cache))
            except SourceError as error:
                reasons.append(" ".join(_without_user(f"{source}: {error}").split()))
                print("no CIFAR-10 from", "".join(filter(str.isprintable, reasons[-1])))
        failures = "; ".join(reasons)
        raise UserError(
            f"no CIFAR-10 source worked ({failures}): set CIFAR10_SOURCE to a folder or tar.gz you have"
        )


def _without_user(text: str) -> str:
    """Return `text` without user and password in its URLs."""
    return re.sub(r"(:/+)[^/?#\s]*@", r"\1", text)  # one slash: as a path has them


def _fetch_from(source: str, folder: Path, cache: Path) -> str:
    """Write the checked files of one source into `folder`; return what served them.

    Raises SourceError where the next source may do better.
    """
    try:
        url = urlsplit(source)
        path = Path(unquote(url.path) if url.scheme == "file" else source).expanduser()
    except (ValueError, RuntimeError) as error:  # a malformed URL; the home of an unknown user
        raise SourceError(str(error)) from error
    if url.scheme not in ("http", "https"):
        official.unpack(path, folder)
        return source
    kept = cache / CACHED_ARCHIVE
    if kept.exists():
        try:
            official.unpack(kept, folder)
        except SourceError:
            kept.unlink()
        else:
            return str(kept)
    part = cache / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.part"
    _download(source, part)
    try:
        official.unpack(part, folder)
    except SourceError:
        part.unlink()  # its pieces may be of two versions: the next time all of it is loaded
        raise
    part.replace(kept)
    for other in cache.glob("*.part"):  # of URLs that broke off: no use now
        other.unlink()
    return source


def _download(url: str, part: Path) -> None:
    """Complete the file `part`, which keeps what comes.

    Raises SourceError when the server refuses or has failed too often, OSError when `part` cannot be written.
    """
    fruitless = -1
    for _ in range(ATTEMPTS):
        start, reason = _size(part), "incomplete"
        headers = {"Accept-Encoding": "identity"}  # bytes on the wire are bytes of the file
        headers |= {"Range": f"bytes={start}-"} if start else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                if start and response.status_code == 416:  # the part is whole or wrong
                    return
                if response.status_code in BUSY:
                    reason = f"HTTP {response.status_code}"
                elif _receive(response, part):
                    return
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            reason = _innermost(error)
        except requests.RequestException as error:
            raise SourceError(_innermost(error)) from error
        fruitless = 0 if _size(part) > start else fruitless + 1
        if fruitless == RETRIES:
            break
        time.sleep(BACKOFF * 2**fruitless)
    raise SourceError(f"{reason}, after {_size(part)} bytes and several attempts")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _innermost(error: BaseException) -> str:
    """Return `Connection refused` where requests says three lines."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__


def _receive(response: requests.Response, part: Path) -> bool:
    """Add the body to `part`, or start it again if the server does not resume; return whether it is whole."""
    status, start = response.status_code, _size(part)
    extent = response.headers.get("Content-Range", "")
    if status not in (200, 206):
        raise SourceError(f"HTTP {status}")
    if status == 206 and not extent.startswith(f"bytes {start}-"):
        part.unlink(missing_ok=True)
        return False
    if status == 200:
        start = 0
    head = b"" if start else response.raw.read(len(official.GZIP))
    if not official.GZIP.startswith(head):  # a page of a captive portal
        raise SourceError(f"not a gzip archive but {response.headers.get('Content-Type', 'of unknown type')}")
    stated = extent.rpartition("/")[2] or response.headers.get("Content-Length", "")
    total = int(stated) if stated.isdecimal() and len(stated) < 16 else None
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        since, before = time.monotonic(), file.tell()
        # read1 returns what has arrived: a cut or a kill loses nothing.
        for block in chain([head], iter(partial(response.raw.read1, BLOCK), b"")):
            bar.update(file.write(block))
            if (now := time.monotonic()) > since + MINUTE:
                if file.tell() < before + SLOWEST:
                    raise SourceError(f"less than {SLOWEST:,} bytes in a minute")
                since, before = now, file.tell()
            if file.tell() > official.ARCHIVE_LIMIT:
                part.unlink()
                raise SourceError(f"larger than {official.ARCHIVE_LIMIT} bytes")
        return total is None or file.tell() >= total
