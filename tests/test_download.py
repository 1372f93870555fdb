"""`fetch_cifar10` against a server on loopback with one fault at a time, hostile archives and full disks.

The seven files are random stand-ins of 1.2 MB: what the server counts tells what was fetched twice.
"""

import errno
import gzip
import hashlib
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifar_resnet import archive, download
from cifar_resnet.archive import FOLDER, SHA256
from cifar_resnet.download import fetch_cifar10

FILES = {name: random.Random(name).randbytes(158 if name == "batches.meta" else 200_000) for name in SHA256}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One member of a tar: its header and its padded content."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info.tobuf() + content + bytes(-len(content) % 512)


def tar(files: dict[str, bytes], folder: str = FOLDER) -> bytes:
    return b"".join(member(f"{folder}/{name}", content) for name, content in files.items()) + bytes(1024)


TAR = tar(FILES)
ARCHIVE = gzip.compress(TAR, 1)
SIZE = len(ARCHIVE)
ALTERED = gzip.compress(tar(FILES | {"data_batch_3": b"?" + FILES["data_batch_3"][1:]}), 1)
DATE = "Wed, 01 Jan 2020 00:00:00 GMT"


class Mirror(ThreadingHTTPServer):
    """A server whose n-th request gets the n-th of `answers`, and every later one the last."""

    daemon_threads = True

    def __init__(self, *answers: "Answer") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[dict[str, str]] = []  # headers
        self.times: list[float] = []
        self.served = 0  # bytes of all bodies
        self.busy = self.busiest = 0  # requests at a time
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error here."""

    def shutdown_request(self, request: Any) -> None:
        """Closes without the FIN that would hide the RST of `reset`."""
        self.close_request(request)

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror = self.server
        mirror.asked.append(dict(self.headers.items()))
        mirror.times.append(time.monotonic())
        mirror.busy += 1
        mirror.busiest = max(mirror.busy, mirror.busiest)
        try:
            mirror.answers[min(len(mirror.asked), len(mirror.answers)) - 1](self)
        finally:
            mirror.busy -= 1

    def reply(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        """Sends `body`, or its first `cut` bytes before the connection ends."""
        self.protocol_version = "HTTP/1.1"
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body)), "Connection": "close"} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        sent = body[:cut]
        if "Transfer_Encoding" in headers:
            chunks = [sent[i : i + 50_000] for i in range(0, len(sent), 50_000)]
            sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            sent += b"" if cut else b"0\r\n\r\n"
        self.wfile.write(sent)
        self.server.served += len(sent)

    def log_message(self, *_: object) -> None:
        """Silent."""


Answer = Callable[[Handler], None]
Serve = Callable[..., Mirror]


def reply(status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, cut, **headers)


def ranged(
    cut: int | None = None, body: bytes = ARCHIVE, *, if_range: bool = True, tag: str = '"1"', **headers: str
) -> Answer:
    """A server that resumes `body`, unless If-Range names another one; `cut` bytes a connection."""

    def answer(handler: Handler) -> None:
        described = headers | {"ETag": tag}
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if if_range and handler.headers.get("If-Range", tag) not in described.values():
            start = 0
        if start >= len(body):
            handler.reply(416, Content_Range=f"bytes */{len(body)}")
        elif start:
            extent = f"bytes {start}-{len(body) - 1}/{len(body)}"
            handler.reply(206, body[start:], cut, Content_Range=extent, **described)
        else:
            handler.reply(200, body, cut, **described)

    return answer


def hang(cut: int) -> Answer:
    """Sends `cut` bytes of the archive and then nothing, over an open connection."""

    def answer(handler: Handler) -> None:
        ranged(cut)(handler)
        handler.server.closing.wait(30)

    return answer


def reset(handler: Handler) -> None:
    """Half the archive, then RST, which would discard what has not been read."""
    ranged(SIZE // 2)(handler)
    time.sleep(0.3)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silence(handler: Handler) -> None:
    """Not even a status line."""
    handler.server.closing.wait(30)


@pytest.fixture
def serve() -> Iterator[Serve]:
    mirrors: list[Mirror] = []

    def start(*answers: Answer) -> Mirror:
        mirrors.append(Mirror(*answers))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.stop()


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins' hashes, short pauses, and no proxy between here and loopback."""
    monkeypatch.setattr(archive, "SHA256", HASHES)
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 1.5))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "data" / FOLDER


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def assert_arrived(destination: Path) -> None:
    """The seven files are there, right, with nothing else in their folder or beside it."""
    assert {path.name: path.read_bytes() for path in destination.iterdir()} == FILES
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def refusal(sources: list[str], destination: Path, cache: Path) -> str:
    """The message of a fetch that must fail: one line, every source, the fix; `destination` is as before."""
    before = {path: path.is_file() and path.read_bytes() for path in destination.parent.rglob("*")}
    with pytest.raises(ValueError, match=r"set CIFAR10_SOURCE to a folder or tar\.gz you have$") as caught:
        fetch_cifar10(sources, destination, cache)
    assert len(str(caught.value).splitlines()) == 1
    assert all(source in str(caught.value) for source in sources)
    assert before == {path: path.is_file() and path.read_bytes() for path in destination.parent.rglob("*")}
    return str(caught.value)


def test_sound_server_sends_the_archive_once_and_nothing_is_printed(
    serve: Serve, destination: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = serve(ranged())
    assert fetch_cifar10([mirror.url], destination, cache) == mirror.url
    assert_arrived(destination)
    assert mirror.served == SIZE
    assert [headers["Accept-Encoding"] for headers in mirror.asked] == ["identity"]
    assert kept(cache) == []
    assert capfd.readouterr() == ("", "")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, SIZE // 2), max_size=8))
@example([0, 0, 0, 0])
@example([1])
@example([SIZE - 1])
def test_download_cut_anywhere_resumes_where_it_stopped(cuts: list[int]) -> None:
    mirror = Mirror(*map(ranged, cuts), ranged())
    with tempfile.TemporaryDirectory() as folder:
        fetch_cifar10([mirror.url], Path(folder, "data", FOLDER), Path(folder, "cache"))
        assert_arrived(Path(folder, "data", FOLDER))
    mirror.stop()
    assert mirror.served <= 1.05 * SIZE


PASSING = {
    "cut": [ranged(SIZE // 3), ranged()],
    "cut, no ETag": [ranged(SIZE // 3, tag=""), ranged(tag="")],
    "cut, a date": [ranged(SIZE // 3, tag="", Last_Modified=DATE), ranged(tag="", Last_Modified=DATE)],
    "cut, weak ETag": [ranged(SIZE // 3, tag='W/"1"'), ranged(tag='W/"1"')],
    "cut early, late, early": [ranged(9), ranged(SIZE // 2), ranged(9), ranged(9), ranged()],
    "reset": [reset, ranged()],
    "silence": [silence, ranged()],
    "stall after the headers": [hang(0), ranged()],
    "stall half-way": [hang(SIZE // 2), ranged()],
    "503 twice": [reply(503), reply(503), ranged()],
    "503 between cuts": [ranged(9), reply(503), ranged(SIZE // 2), reply(503, Retry_After="soon"), ranged()],
    "429": [reply(429, Retry_After="0"), ranged()],
    "chunked and cut": [ranged(SIZE // 2, Content_Length="", Transfer_Encoding="chunked"), ranged()],
    "Content-Length too long": [ranged(Content_Length=str(SIZE + 999)), ranged()],
    "range answered in pieces": [
        ranged(SIZE // 2),
        lambda handler: handler.reply(
            206,
            ARCHIVE[SIZE // 2 : SIZE - 99],
            Content_Range=f"bytes {SIZE // 2}-{SIZE - 100}/{SIZE}",
        ),
        ranged(),
    ],
}


@pytest.mark.parametrize("answers", PASSING.values(), ids=PASSING)
def test_passing_fault_costs_no_byte_twice(
    answers: list[Answer], serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(*answers)
    assert fetch_cifar10([mirror.url], destination, cache) == mirror.url
    assert_arrived(destination)
    assert len(mirror.asked) == len(answers)
    assert mirror.served <= 1.05 * SIZE
    assert kept(cache) == []
    assert not any(headers.get("If-Range", "").startswith("W/") for headers in mirror.asked)


UNRESUMABLE = {
    "Range ignored": [reply(200, ARCHIVE, SIZE // 2), reply(200, ARCHIVE)],
    "416 without the size": [ranged(SIZE // 2), reply(416), ranged()],
    "416 with another size": [ranged(SIZE // 2), reply(416, Content_Range="bytes */9"), ranged()],
    "206 from another byte": [
        ranged(SIZE // 2),
        reply(206, ARCHIVE[9:], Content_Range=f"bytes 9-{SIZE - 1}/{SIZE}"),
        ranged(),
    ],
    "206 without a range": [ranged(SIZE // 2), reply(206, ARCHIVE), ranged()],
    "ETag changed": [ranged(SIZE // 2, ALTERED, tag='"0"'), ranged()],
    "ETag changed, If-Range ignored": [ranged(SIZE // 2, ALTERED, tag='"0"'), ranged(if_range=False)],
    "date changed": [
        ranged(SIZE // 2, ALTERED, tag="", Last_Modified=DATE),
        ranged(tag="", Last_Modified=DATE.replace("2020", "2021")),
    ],
}


@pytest.mark.parametrize("answers", UNRESUMABLE.values(), ids=UNRESUMABLE)
def test_download_that_cannot_be_resumed_starts_anew(
    answers: list[Answer], serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(*answers)
    assert fetch_cifar10([mirror.url], destination, cache) == mirror.url
    assert_arrived(destination)
    assert mirror.served > SIZE
    assert kept(cache) == []


LASTING: dict[str, tuple[Answer, str, int]] = {
    "missing": (reply(404, b"gone"), "HTTP 404", 1),
    "forbidden": (reply(403), "HTTP 403", 1),
    "altered member": (ranged(body=ALTERED), "data_batch_3 is not the official file: SHA-256 ", 1),
    "HTML page": (
        reply(200, b"<html>Log in</html>", Content_Type="text/html"),
        "not a gzip archive but text/html",
        1,
    ),
    "plain tar": (reply(200, TAR), "not a gzip archive but of unknown type", 1),
    "no body": (reply(200), "unreadable: ", 1),
    "gzip, no tar": (reply(200, gzip.compress(b"text" * 999)), "unreadable: ", 1),
    "archive truncated": (reply(200, ARCHIVE[: SIZE // 2]), "unreadable: Compressed file ended", 1),
    "gzip header truncated": (reply(200, ARCHIVE[:3]), "unreadable: Compressed file ended", 1),
    "Content-Length too short": (reply(200, ARCHIVE, Content_Length=str(SIZE // 2)), "unreadable: ", 1),
    "Content-Length too long": (
        reply(200, ARCHIVE, Content_Length=str(SIZE + 9)),
        f"IncompleteRead({SIZE} bytes",
        6,
    ),
    "cut at the same byte": (reply(200, ARCHIVE, SIZE // 2), f"IncompleteRead({SIZE // 2} bytes", 6),
    "always busy": (reply(503), "HTTP 503", 5),
    "416": (reply(416), "incomplete", 5),
    "redirects in a circle": (reply(302, Location="/"), "Exceeded 30 redirects", 31),
    "redirect to another protocol": (
        reply(302, Location="file:///etc/passwd"),
        "No connection adapters were found",
        1,
    ),
}


@pytest.mark.parametrize(("answer", "reason", "requests"), LASTING.values(), ids=LASTING)
def test_lasting_fault_is_one_line_and_the_next_source_serves(
    answer: Answer, reason: str, requests: int, serve: Serve, destination: Path, cache: Path
) -> None:
    mirror, sound = serve(answer), serve(ranged())
    assert f"{mirror.url}: {reason}" in refusal([mirror.url], destination, cache)
    assert len(mirror.asked) == requests
    assert fetch_cifar10([mirror.url, sound.url], destination, cache) == sound.url
    assert_arrived(destination)
    assert sound.served == SIZE


def test_server_that_is_down_is_one_line_and_the_next_source_serves(
    serve: Serve, destination: Path, cache: Path
) -> None:
    down, sound = serve(ranged()), serve(ranged())
    down.stop()
    assert f"{down.url}: [Errno 111] Connection refused" in refusal([down.url], destination, cache)
    assert fetch_cifar10([down.url, sound.url], destination, cache) == sound.url


def test_server_that_never_answers_is_one_line_and_the_next_source_serves(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FRUITLESS", 2)
    silent, sound = serve(silence), serve(silence, silence, ranged())
    assert f"{silent.url}: timed out" in (message := refusal([silent.url, sound.url], destination, cache))
    assert f"{sound.url}: timed out" in message
    assert len(silent.asked) == 2
    assert fetch_cifar10([sound.url], destination, cache) == sound.url


def test_message_lists_every_source_with_its_reason(
    serve: Serve, destination: Path, cache: Path, tmp_path: Path
) -> None:
    missing, altered = serve(reply(404)), serve(ranged(body=ALTERED))
    message = refusal([str(tmp_path / "none"), missing.url, altered.url], destination, cache)
    assert f"{tmp_path / 'none'}: unreadable: [Errno 2] No such file or directory" in message
    assert f"; {missing.url}: HTTP 404; {altered.url}: data_batch_3 is not" in message
    assert kept(cache) == []


def test_message_stays_one_line_whatever_the_source_is_called(destination: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"^no CIFAR-10 source worked \(no such: unreadable.*you have$"):
        fetch_cifar10(["no\nsuch"], destination, cache)


def test_redirect_is_followed_when_resuming_too(serve: Serve, destination: Path, cache: Path) -> None:
    target = serve(ranged(SIZE // 2), ranged())
    mirror = serve(reply(302, Location=target.url))
    assert fetch_cifar10([mirror.url], destination, cache) == mirror.url
    assert_arrived(destination)
    assert target.served == SIZE


def test_gzip_named_as_content_encoding_is_stored_as_sent(
    serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(*[ranged(cut, Content_Encoding="gzip") for cut in (SIZE // 2, None)])
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served == SIZE


@pytest.mark.parametrize("retry_after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
def test_retry_after_is_honoured(
    retry_after: Callable[[], str], serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(lambda handler: handler.reply(429, Retry_After=retry_after()), ranged())
    fetch_cifar10([mirror.url], destination, cache)
    assert 0.9 <= mirror.times[1] - mirror.times[0] < 10


def test_retry_after_is_capped(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0.2)
    mirror = serve(reply(503, Retry_After="86400"), ranged())
    fetch_cifar10([mirror.url], destination, cache)
    assert 0.2 <= mirror.times[1] - mirror.times[0] < 5


def test_pauses_double_while_nothing_comes(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.05)
    mirror = serve(reply(500), reply(502), reply(504), ranged())
    fetch_cifar10([mirror.url], destination, cache)
    pauses = [later - sooner for sooner, later in zip(mirror.times, mirror.times[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, [0.1, 0.2, 0.4], strict=True))


def test_attempts_are_bounded_however_steady_the_progress(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 12)
    mirror = serve(ranged(1))
    refusal([mirror.url], destination, cache)
    assert len(mirror.asked) == mirror.served == 12


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from cifar_resnet import archive, download

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts with &
url, destination, cache, hashes, files = sys.argv[1:]
archive.SHA256 = json.loads(hashes)
left = iter(range(int(files)))
os.fsync = lambda _: next(left, None) is None and os.kill(os.getpid(), 9)
download.fetch_cifar10([url], Path(destination), Path(cache))
"""


def start_fetch(url: str, destination: Path, cache: Path, files: int = 7) -> subprocess.Popen[bytes]:
    """A fetch in a process of its own, which is killed after it has written so many files."""
    arguments = [url, str(destination), str(cache), json.dumps(HASHES), str(files)]
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], env=environment, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_download_is_resumed_by_the_next_call(
    stop: signal.Signals, serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(hang(SIZE // 2), ranged())
    with start_fetch(mirror.url, destination, cache) as process:
        deadline = time.monotonic() + 20
        while sum(path.stat().st_size for path in cache.glob("*.part")) < SIZE // 2 - 8192:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(stop)
    assert process.returncode == -stop
    assert not destination.exists()
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served <= 1.05 * SIZE
    assert kept(cache) == []


def test_process_killed_between_two_files_leaves_no_half_filled_destination(
    serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(ranged())
    with start_fetch(mirror.url, destination, cache, files=3) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    assert not destination.exists()
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served == SIZE


def interrupted(mirror: Mirror, destination: Path, cache: Path) -> Path:
    """The part that a mirror which breaks off leaves behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        refusal([mirror.url], destination, cache)
    (part,) = cache.glob("*.part")
    return part


def test_part_damaged_on_disk_is_replaced_by_a_whole_download(
    serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(ranged(SIZE // 2), ranged())
    part = interrupted(mirror, destination, cache)
    part.write_bytes(bytes(SIZE // 2))
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served == 2 * SIZE


def test_part_whose_validator_is_lost_is_resumed(serve: Serve, destination: Path, cache: Path) -> None:
    mirror = serve(ranged(SIZE // 2), ranged())
    interrupted(mirror, destination, cache).with_suffix(".validator").unlink()
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served == SIZE


def test_page_of_a_captive_portal_does_not_cost_the_part(
    serve: Serve, destination: Path, cache: Path
) -> None:
    mirror = serve(ranged(SIZE // 2), reply(200, b"<html>"), ranged())
    part = interrupted(mirror, destination, cache)
    assert "not a gzip archive" in refusal([mirror.url], destination, cache)
    assert part.read_bytes() == ARCHIVE[: SIZE // 2]
    fetch_cifar10([mirror.url], destination, cache)
    assert mirror.served <= 1.05 * SIZE


def test_parts_of_two_urls_are_not_mixed(serve: Serve, destination: Path, cache: Path) -> None:
    altered, sound = serve(ranged(SIZE // 2, ALTERED, tag="")), serve(ranged(tag=""))
    interrupted(altered, destination, cache)
    fetch_cifar10([sound.url], destination, cache)
    assert_arrived(destination)
    assert sound.served == SIZE


def slow(handler: Handler) -> None:
    time.sleep(0.2)
    ranged()(handler)


def test_fetches_into_one_folder_do_not_disturb_each_other(
    serve: Serve, destination: Path, cache: Path
) -> None:
    urls = [serve(slow).url for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        served = pool.map(lambda url: fetch_cifar10([url], destination, cache), urls)
    assert list(served) == urls
    assert_arrived(destination)


def test_fetches_of_one_url_take_turns(serve: Serve, tmp_path: Path, cache: Path) -> None:
    mirror = serve(slow)
    destinations = [tmp_path / clone / FOLDER for clone in "abc"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda destination: fetch_cifar10([mirror.url], destination, cache), destinations))
    for destination in destinations:
        assert_arrived(destination)
    assert mirror.busiest == 1


def test_full_disk_under_the_cache_is_raised_at_once(serve: Serve, destination: Path, cache: Path) -> None:
    mirror, other = serve(ranged(9), ranged()), serve(ranged())
    part = interrupted(mirror, destination, cache)
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        fetch_cifar10([mirror.url, other.url], destination, cache)
    assert caught.value.errno == errno.ENOSPC
    assert other.asked == []
    assert not any(destination.parent.iterdir())


def test_full_disk_under_the_destination_is_raised_at_once_and_keeps_the_part(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, other = serve(ranged()), serve(ranged())
    honest = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        return honest(Path("/dev/full") if path.name == "data_batch_4" else path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        fetch_cifar10([mirror.url, other.url], destination, cache)
    monkeypatch.setattr(Path, "open", honest)
    assert other.asked == []
    assert not any(destination.parent.iterdir())
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)
    assert mirror.served == SIZE


@pytest.mark.parametrize("blocked", ["data", "cache"])
def test_folder_that_cannot_be_made_is_raised_at_once(
    blocked: str, serve: Serve, tmp_path: Path, destination: Path, cache: Path
) -> None:
    (tmp_path / blocked).write_text("a file where a folder must be")
    mirror = serve(ranged())
    with pytest.raises(OSError, match=str(tmp_path / blocked)):
        fetch_cifar10([mirror.url], destination, cache)
    assert mirror.asked == []


def test_old_destination_stays_when_no_source_works_and_is_replaced_when_one_does(
    serve: Serve, destination: Path, cache: Path
) -> None:
    destination.mkdir(parents=True)
    (destination / "data_batch_1").write_text("old")
    (destination / "stale").write_text("old")
    mirror = serve(reply(404), ranged())
    refusal([mirror.url], destination, cache)
    fetch_cifar10([mirror.url], destination, cache)
    assert_arrived(destination)


LOCAL = {
    "folder": (f"{{}}/{FOLDER}", "none", b""),
    "parent folder": ("{}", "none", b""),
    "home": ("~", "none", b""),
    "tar": ("{}/a.tar", "a.tar", TAR),
    "tar.gz": ("{}/a.tar.gz", "a.tar.gz", ARCHIVE),
    "file URL": ("file://{}/a%20b.tgz", "a b.tgz", ARCHIVE),
    "file URL of a folder": ("file://{}", "none", b""),
    "tar of .": ("{}/a.tar", "a.tar", tar(FILES, f"./{FOLDER}")),
    "deep tar": ("{}/a.tar", "a.tar", tar(FILES, f"some/data/{FOLDER}")),
    "reversed tar": ("{}/a.tar", "a.tar", tar(dict(reversed(FILES.items())))),
}


@pytest.mark.parametrize(("source", "name", "archive"), LOCAL.values(), ids=LOCAL)
def test_local_source_serves(
    source: str,
    name: str,
    archive: bytes,
    tmp_path: Path,
    destination: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / FOLDER).mkdir(parents=True)
    for member_name, content in FILES.items():
        (home / FOLDER / member_name).write_bytes(content)
    (home / name).write_bytes(archive)
    source = source.format(home)
    assert fetch_cifar10([source], destination, cache) == source
    assert_arrived(destination)
    assert kept(cache) == []


def test_folder_that_lacks_a_file_or_holds_a_wrong_one_is_refused(
    tmp_path: Path, destination: Path, cache: Path
) -> None:
    source = tmp_path / FOLDER
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    (source / "test_batch").write_bytes(b"?")
    assert "test_batch is not the official file" in refusal([str(source)], destination, cache)
    (source / "test_batch").unlink()
    assert f"No such file or directory: '{source}/test_batch'" in refusal([str(source)], destination, cache)


PLACE = f"{FOLDER}/data_batch_1"
CONTENT = FILES["data_batch_1"]
STRANGERS = {
    "above": member(f"../{PLACE}", CONTENT),
    "above, within": member(f"{FOLDER}/../{PLACE}", CONTENT),
    "absolute": member(f"/tmp/{PLACE}", CONTENT),
    "symlink": member(PLACE, kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "symlink to the folder": member(FOLDER, kind=tarfile.SYMTYPE, link="/tmp") + member("x", CONTENT),
    "hard link": member(PLACE, kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "device": member(PLACE, kind=tarfile.CHRTYPE),
    "block device": member(PLACE, kind=tarfile.BLKTYPE),
    "fifo": member(PLACE, kind=tarfile.FIFOTYPE),
    "folder": member(PLACE, kind=tarfile.DIRTYPE),
    "wrong folder": member(f"{FOLDER}/more/data_batch_1", CONTENT),
    "no folder": member("data_batch_1", CONTENT),
    "other name": member(f"{FOLDER}/data_batch_6", CONTENT),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_stranger_in_an_archive_is_passed_over_and_never_taken_for_a_file(
    stranger: bytes, pack: Callable[[bytes], bytes], tmp_path: Path, destination: Path, cache: Path
) -> None:
    source = tmp_path / "archive"
    source.write_bytes(pack(stranger + TAR[len(member(PLACE, CONTENT)) :]))
    assert f"it holds no file {PLACE}" in refusal([str(source)], destination, cache)
    source.write_bytes(pack(stranger + TAR))
    fetch_cifar10([str(source)], destination, cache)
    assert_arrived(destination)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "cache", "data"]


def claim(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header whose content is still to come."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf()


REFUSED = {
    "no byte": (b"", "unreadable: empty file"),
    "empty tar": (bytes(10240), f"it holds no file {FOLDER}/batches.meta"),
    "no tar": (b"text" * 999, "unreadable: "),
    "no deflate stream": (ARCHIVE[:10] + b"\xff" * 99, "unreadable: "),
    "other archive": (b"PK\3\4" + bytes(999), "unreadable: "),
    "truncated tar": (TAR[: len(TAR) // 2], "unreadable: unexpected end of data"),
    "end of tar in a header": (
        TAR[: len(member(PLACE, CONTENT)) + 99],
        f"it holds no file {FOLDER}/batches.meta",
    ),
    "wrong copy first": (member(PLACE, b"wrong") + TAR, "data_batch_1 is not the official file"),
    "huge file": (claim(PLACE, 2**26 + 1) + TAR, f"'{PLACE}' would unpack to 67108865 bytes"),
    "huge stranger": (claim("x\n\33[2J", 2**40) + TAR, r"'x\n\x1b[2J' would unpack to 1099511627776 bytes"),
}


@pytest.mark.parametrize(("archive", "reason"), REFUSED.values(), ids=REFUSED)
def test_archive_is_refused(
    archive: bytes, reason: str, tmp_path: Path, destination: Path, cache: Path
) -> None:
    source = tmp_path / "archive"
    source.write_bytes(archive)
    assert f"{source}: {reason}" in refusal([str(source)], destination, cache)
    source.write_bytes(gzip.compress(archive, 1))
    assert f"{source}: {reason}" in refusal([str(source)], destination, cache)


def test_gzip_that_breaks_within_a_file_is_refused(tmp_path: Path, destination: Path, cache: Path) -> None:
    packing = zlib.compressobj(wbits=31)
    source = tmp_path / "archive.tar.gz"
    source.write_bytes(packing.compress(TAR[:100_000]) + packing.flush(zlib.Z_SYNC_FLUSH) + b"\xff" * 9)
    assert "unreadable: Error -3 while decompressing" in refusal([str(source)], destination, cache)


def test_first_of_two_copies_is_taken(tmp_path: Path, destination: Path, cache: Path) -> None:
    source = tmp_path / "archive.tar"
    first = len(member(PLACE, CONTENT))
    source.write_bytes(TAR[:first] + member(PLACE, b"wrong") + TAR[first:])
    fetch_cifar10([str(source)], destination, cache)
    assert_arrived(destination)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
def test_bomb_is_refused_before_it_fills_the_memory(
    kind: bytes, tmp_path: Path, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", 2**20)
    source = tmp_path / "bomb.tar.gz"
    source.write_bytes(gzip.compress(claim("x", 2**23, kind) + bytes(2**23) + TAR))
    assert "would unpack to more than 1048576 bytes" in refusal([str(source)], destination, cache)


def test_download_without_end_is_refused(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", SIZE - 1)
    mirror = serve(ranged())
    assert f"larger than {SIZE - 1} bytes" in refusal([mirror.url], destination, cache)
    assert kept(cache) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    packed=st.booleans(),
    place=st.integers(0, 7),
    offset=st.integers(0, 511),
    damage=st.binary(min_size=1, max_size=12),
    end=st.one_of(st.none(), st.integers(0, len(TAR))),
)
def test_damaged_archive_is_right_or_one_line(
    packed: bool, place: int, offset: int, damage: bytes, end: int | None
) -> None:
    at = place * len(member(PLACE, CONTENT)) + offset  # within a header
    archive = TAR[:at] + damage + TAR[at + len(damage) :]
    if packed:
        archive = gzip.compress(archive, 1)
        archive = archive[: offset % 24] + damage[:1] + archive[offset % 24 + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder, "archive"), Path(folder, "data", FOLDER)
        source.write_bytes(archive[:end])
        message = ""
        try:
            fetch_cifar10([str(source)], destination, Path(folder, "cache"))
        except ValueError as error:
            message = str(error)
        if message:
            assert len(message.splitlines()) == 1
            assert not any(destination.parent.iterdir())
        else:
            assert_arrived(destination)


def test_terminal_gets_a_progress_bar(
    serve: Serve, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    fetch_cifar10([serve(ranged()).url], destination, cache)
    assert "0%|" in terminal.getvalue()
    assert "/1.20M [00:00<?, ?B/s]" in terminal.getvalue()


def test_import_brings_no_heavy_module_and_none_that_unpickles() -> None:
    script = (
        "import sys, cifar_resnet.download; print({'numpy', 'pickle', 'requests', 'torch'} & {*sys.modules})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(download.__file__).parents[1])}
    assert subprocess.check_output([sys.executable, "-c", script], env=environment) == b"set()\n"
