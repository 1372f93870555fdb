"""`fetch_cifar10` against a server on loopback with one fault at a time, hostile archives and full disks.

The seven files are small random stand-ins, so a byte count on the wire says what was fetched twice.
"""

import gzip
import hashlib
import io
import random
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifar_resnet import download
from cifar_resnet.download import FOLDER, SHA256, fetch_cifar10

FILES = {
    name: random.Random(name).randbytes(158 if name == "batches.meta" else 200_000 + i)
    for i, name in enumerate(SHA256)
}


def tarball(files: dict[str, bytes], folder: str = FOLDER) -> bytes:
    """A plain tar of `files` below `folder`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


TAR = tarball(FILES)
ARCHIVE = gzip.compress(TAR, 1)
SIZE = len(ARCHIVE)
ALTERED = gzip.compress(tarball(FILES | {"data_batch_3": b"?" + FILES["data_batch_3"][1:]}), 1)


class Mirror(ThreadingHTTPServer):
    """A server whose n-th request gets the n-th of `answers`, and every later one the last."""

    daemon_threads = True

    def __init__(self, *answers: "Answer") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[dict[str, str]] = []  # request headers
        self.times: list[float] = []
        self.served = 0  # bytes of all bodies
        self.busy = self.busiest = 0  # requests at a time
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_GET(self) -> None:
        mirror = self.server
        mirror.asked.append(dict(self.headers.items()))
        mirror.times.append(time.monotonic())
        mirror.busy += 1
        mirror.busiest = max(mirror.busy, mirror.busiest)
        mirror.answers[min(len(mirror.asked), len(mirror.answers)) - 1](self)
        mirror.busy -= 1
        self.close_connection = True

    def reply(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        """Sends `body`, or its first `cut` bytes and then an end of the connection."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.send(body[:cut])

    def send(self, content: bytes) -> None:
        self.wfile.write(content)
        self.wfile.flush()
        self.server.served += len(content)

    def log_message(self, *_: object) -> None:
        """Silent."""


Answer = Callable[[Handler], None]


def reply(status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, cut, **headers)


def ranged(
    cut: int | None = None, body: bytes = ARCHIVE, *, if_range: bool = True, ETag: str = '"1"', **headers: str
) -> Answer:
    """A good server of `body` that resumes; `cut` ends the connection after so many bytes."""

    def answer(handler: Handler) -> None:
        validators = {"ETag": ETag} | headers
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        if if_range and handler.headers.get("If-Range", ETag) not in validators.values():
            start = 0
        if start >= len(body):
            handler.reply(416, Content_Range=f"bytes */{len(body)}")
        elif start:
            extent = f"bytes {start}-{len(body) - 1}/{len(body)}"
            handler.reply(206, body[start:], cut, Content_Range=extent, **validators)
        else:
            handler.reply(200, body, cut, **validators)

    return answer


def hang(cut: int) -> Answer:
    """Sends `cut` bytes of the archive and then nothing, on an open connection."""

    def answer(handler: Handler) -> None:
        ranged(cut)(handler)
        handler.server.closing.wait(30)

    return answer


def reset(handler: Handler) -> None:
    """Ends the connection with RST, as a dying router does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Mirror]]:
    mirrors: list[Mirror] = []

    def start(*answers: Answer) -> Mirror:
        mirrors.append(Mirror(*answers))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.closing.set()
        mirror.shutdown()
        mirror.server_close()


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins' hashes, and short pauses."""
    for name, content in FILES.items():
        monkeypatch.setitem(SHA256, name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "TIMEOUT", (2.0, 0.7))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "data" / FOLDER


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def assert_arrived(destination: Path) -> None:
    """The seven files, right, and nothing beside them."""
    assert {path.name: path.read_bytes() for path in destination.iterdir()} == FILES
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def refusal(sources: list[str], destination: Path, cache: Path) -> str:
    """The one-line message of a fetch that no source served and that left no trace at `destination`."""
    before = sorted(destination.parent.glob("**/*"))
    with pytest.raises(ValueError, match="set CIFAR10_SOURCE to") as caught:
        fetch_cifar10(sources, destination, cache)
    message = str(caught.value)
    assert "\n" not in message
    assert all(source in message for source in sources)
    assert [path for path in destination.parent.glob("**/*") if path not in before] == []
    return message


# ---- faults of the server


def test_sound_server_sends_the_archive_once(
    serve: Any, destination: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = serve(ranged())
    assert fetch_cifar10([mirror.url], destination, cache) == mirror.url
    assert_arrived(destination)
    assert mirror.served == SIZE
    assert leftovers(cache) == []
    assert capfd.readouterr() == ("", "")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, SIZE // 2), max_size=8))
@example([1])
@example([SIZE - 1])
def test_download_cut_anywhere_resumes_where_it_stopped(cuts: list[int]) -> None:
    mirror = Mirror(*map(ranged, cuts), ranged())
    with mirror, tempfile.TemporaryDirectory() as folder:
        destination = Path(folder, "data", FOLDER)
        fetch_cifar10([mirror.url], destination, Path(folder, "cache"))
        assert_arrived(destination)
        assert mirror.served <= 1.05 * SIZE
        mirror.shutdown()
