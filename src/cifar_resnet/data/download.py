"""An archive from a server that may be busy, slow or break off: what has come is kept and added to."""

import time
from functools import partial
from itertools import chain
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from cifar_resnet.data import archive
from cifar_resnet.data.archive import SourceError

TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a byte
RETRIES = 5  # of a request that fails or is refused for now, and of bodies in a row without a new byte
ATTEMPTS = 100  # bodies of one URL in all
BUSY = (408, 429, 500, 502, 503, 504)  # statuses that may pass
BACKOFF = 1.0  # seconds, doubled by each retry
LONGEST_PAUSE = 60  # seconds; caps the backoff and the server's Retry-After
BLOCK = 2**20  # bytes


def download(url: str, part: Path) -> bool:
    """Complete the file `part`; return whether its bytes came in one piece.

    Raises SourceError when the server refuses or has failed too often, OSError when `part` cannot be written.
    """
    longest, fruitless = _size(part), 0
    with _session() as session:
        for _ in range(ATTEMPTS):
            start, reason = _size(part), "incomplete"
            headers = {"Range": f"bytes={start}-"} if start else {}
            try:
                with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                    if start and response.status_code == 416:  # the part is whole or wrong
                        return False
                    if _receive(response, part):
                        return response.status_code == 200
            except HTTPError as error:
                reason = _innermost(error)
            except requests.RequestException as error:
                raise SourceError(_innermost(error)) from error
            size = _size(part)
            longest, fruitless = max(longest, size), 0 if size > longest else fruitless + 1
            if fruitless == RETRIES:
                break
            time.sleep(min(BACKOFF * 2**fruitless, LONGEST_PAUSE))
    raise SourceError(f"{reason}, after {size} bytes and several attempts")


def _session() -> requests.Session:
    retry = Retry(
        total=RETRIES,
        status_forcelist=BUSY,
        raise_on_status=False,
        backoff_factor=BACKOFF,
        backoff_max=LONGEST_PAUSE,
        retry_after_max=LONGEST_PAUSE,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    session.headers["Accept-Encoding"] = "identity"  # bytes on the wire are bytes of the file
    return session


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
    head = b"" if start else response.raw.read(len(archive.GZIP))
    if not archive.GZIP.startswith(head):  # a page of a captive portal
        raise SourceError(f"not a gzip archive but {response.headers.get('Content-Type', 'of unknown type')}")
    length = extent.rpartition("/")[2] or response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        # read1 returns what has arrived: a cut or a kill loses nothing.
        for block in chain([head], iter(partial(response.raw.read1, BLOCK), b"")):
            bar.update(file.write(block))
            if file.tell() > archive.ARCHIVE_LIMIT:
                part.unlink()
                raise SourceError(f"larger than {archive.ARCHIVE_LIMIT} bytes")
        return total is None or file.tell() >= total
