"""`fetch_cifar10` from a server with one fault at a time; what it counts tells what was fetched twice."""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifar_resnet.data import archive, download
from cifar_resnet.data.archive import FOLDER
from cifar_resnet.data.sources import KEPT, fetch_cifar10
from cifar_resnet.files.params import UserError
from tests.data.mirror import Answer, Mirror, ranged, reply, reset, silence, stall
from tests.data.stand_ins import ALTERED, ARCHIVE, DOWN, HALF, SIZE, TAR, assert_arrived, in_cache, refusal

pytestmark = pytest.mark.usefixtures("stand_ins")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each pause, which takes no time."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_sound_server_sends_the_archive_once_and_nothing_is_printed(
    mirror: Mirror, destination: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = mirror.serve(ranged())
    assert fetch_cifar10([source.url], destination, cache) == source.url
    assert_arrived(destination)
    assert source.served == SIZE
    assert [headers["Accept-Encoding"] for headers in source.asked] == ["identity"]
    assert in_cache(cache) == [KEPT]
    assert capfd.readouterr() == ("", "")


@settings(max_examples=15, derandomize=True)
@given(st.lists(st.integers(1, HALF), max_size=8))
@example([0, 0, 0, 0])
@example([1])
@example([SIZE - 1])
def test_download_cut_anywhere_resumes_where_it_stopped(mirror: Mirror, cuts: list[int]) -> None:
    source = mirror.serve(*map(ranged, cuts), ranged())
    with tempfile.TemporaryDirectory() as folder:
        fetch_cifar10([source.url], Path(folder, "data", FOLDER), Path(folder, "cache"))
        assert_arrived(Path(folder, "data", FOLDER))
    assert source.served <= 1.05 * SIZE


PASSING = {
    "cut early, late, early": [ranged(9), ranged(HALF), ranged(9), ranged(9), ranged()],
    "reset": [reset, ranged()],
    "503 between cuts": [ranged(9), reply(503), reply(503), ranged(HALF), reply(429), ranged()],
    "chunked and cut": [ranged(HALF, Content_Length="", Transfer_Encoding="chunked"), ranged()],
    "named as an encoding": [ranged(cut, Content_Encoding="gzip") for cut in (HALF, None)],
    "Content-Length too long": [ranged(Content_Length=str(SIZE + 999)), ranged()],
    "range answered in pieces": [
        ranged(HALF),
        reply(206, ARCHIVE[HALF:-99], Content_Range=f"bytes {HALF}-{SIZE - 100}/{SIZE}"),
        ranged(),
    ],
}


@pytest.mark.parametrize("answers", PASSING.values(), ids=PASSING)
def test_passing_fault_costs_no_byte_twice(
    answers: list[Answer], mirror: Mirror, destination: Path, cache: Path
) -> None:
    source = mirror.serve(*answers)
    assert fetch_cifar10([source.url], destination, cache) == source.url
    assert_arrived(destination)
    assert len(source.asked) == len(answers)
    assert source.served <= 1.05 * SIZE
    assert in_cache(cache) == [KEPT]


def test_server_that_falls_silent_is_asked_again_and_given_up_in_the_end(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 0.5))
    monkeypatch.setattr(download, "RETRIES", 3)
    silent, slow = mirror.serve(silence), mirror.serve(silence, stall(0), stall(HALF), ranged())
    assert f"{silent.url}: timed out" in refusal([silent.url], destination, cache)
    assert len(silent.asked) == 4
    assert fetch_cifar10([slow.url], destination, cache) == slow.url
    assert slow.served <= 1.05 * SIZE


UNRESUMABLE = {
    "Range ignored": [reply(200, ARCHIVE, HALF), reply(200, ARCHIVE)],
    "416": [ranged(HALF), reply(416), ranged()],
    "206 from another byte": [
        ranged(HALF),
        reply(206, ARCHIVE[9:], Content_Range=f"bytes 9-{SIZE - 1}/{SIZE}"),
        ranged(),
    ],
    "206 without a range": [ranged(HALF), reply(206, ARCHIVE), ranged()],
    "pieces of two versions": [ranged(HALF, ALTERED), ranged(), ranged()],
}


@pytest.mark.parametrize("answers", UNRESUMABLE.values(), ids=UNRESUMABLE)
def test_download_that_cannot_be_resumed_starts_again(
    answers: list[Answer], mirror: Mirror, destination: Path, cache: Path
) -> None:
    source = mirror.serve(*answers)
    assert fetch_cifar10([source.url], destination, cache) == source.url
    assert_arrived(destination)
    assert len(source.asked) == len(answers)
    assert in_cache(cache) == [KEPT]


LASTING: dict[str, tuple[Answer, str, int]] = {
    "missing": (reply(404, b"gone"), "HTTP 404", 1),
    "altered member": (ranged(body=ALTERED), "data_batch_3 is not the official file: SHA-256 ", 1),
    "altered member in pieces": (ranged(HALF, ALTERED), "data_batch_3 is not the official file", 6),
    "HTML page": (reply(200, b"<html>", Content_Type="text/html"), "not a gzip archive but text/html", 1),
    "plain tar": (reply(200, TAR), "not a gzip archive but of unknown type", 1),
    "no body": (reply(200), "unreadable: ", 1),
    "archive truncated": (reply(200, ARCHIVE[:HALF]), "unreadable: Compressed file ended", 1),
    "Content-Length too short": (reply(200, ARCHIVE, Content_Length=str(HALF)), "unreadable: ", 1),
    "Content-Length too long": (
        reply(200, ARCHIVE, Content_Length=str(SIZE + 9)),
        f"IncompleteRead({SIZE} bytes",
        6,
    ),
    "cut at the same byte": (reply(200, ARCHIVE, HALF), f"IncompleteRead({HALF} bytes", 6),
    "always busy": (reply(503), "HTTP 503", 6),
    "busy until nobody knows when": (reply(503, Retry_After="soon"), "Invalid Retry-After header: soon", 1),
    "416": (reply(416), "HTTP 416", 1),
    "206 from another byte": (reply(206, ARCHIVE, Content_Range="bytes 9-"), "incomplete, after 0 bytes", 5),
    "redirects in a circle": (
        lambda handler: handler.reply(302, Location=handler.path),
        "Exceeded 30 redirects",
        31,
    ),
    "redirect to another protocol": (
        reply(302, Location="file:///etc/passwd"),
        "No connection adapters were found",
        1,
    ),
}


@pytest.mark.parametrize(("answer", "reason", "requests"), LASTING.values(), ids=LASTING)
def test_lasting_fault_is_one_line_and_the_next_source_serves(
    answer: Answer, reason: str, requests: int, mirror: Mirror, destination: Path, cache: Path
) -> None:
    source, sound = mirror.serve(answer), mirror.serve(ranged())
    assert f"{source.url}: {reason}" in refusal([source.url], destination, cache)
    assert len(source.asked) == requests
    assert fetch_cifar10([source.url, sound.url], destination, cache) == sound.url
    assert_arrived(destination)
    assert sound.served == SIZE


def test_message_lists_every_source_with_its_reason(
    mirror: Mirror, destination: Path, cache: Path, tmp_path: Path
) -> None:
    missing, altered = mirror.serve(reply(404)), mirror.serve(ranged(body=ALTERED))
    strange = ["http://[", "~nobody-of-this-name/data"]
    message = refusal([str(tmp_path / "none"), missing.url, altered.url, DOWN, *strange], destination, cache)
    assert f"{tmp_path / 'none'}: unreadable: [Errno 2] No such file or directory" in message
    assert f"; {missing.url}: HTTP 404; {altered.url}: data_batch_3 is not" in message
    assert f"; {DOWN}: [Errno 111] Connection refused; http://[: Invalid IPv6 URL; ~nobody" in message
    assert in_cache(cache) == []


def test_message_stays_one_line_whatever_the_source_is_called(destination: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"^no CIFAR-10 source worked \(no such: unreadable.*you have$"):
        fetch_cifar10(["no\nsuch"], destination, cache)


def test_redirect_is_followed_when_resuming_too(mirror: Mirror, destination: Path, cache: Path) -> None:
    target = mirror.serve(ranged(HALF), ranged())
    source = mirror.serve(reply(302, Location=target.url))
    assert fetch_cifar10([source.url], destination, cache) == source.url
    assert_arrived(destination)
    assert target.served == SIZE


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: formatdate(time.time() + 30, usegmt=True), 20, 30),
        (lambda: "86400", 60, 60),
    ],
    ids=["seconds", "a date", "too long"],
)
def test_retry_after_is_honoured_up_to_a_minute(
    retry_after: Callable[[], str],
    least: float,
    most: float,
    mirror: Mirror,
    destination: Path,
    cache: Path,
    pauses: list[float],
) -> None:
    source = mirror.serve(lambda handler: handler.reply(429, Retry_After=retry_after()), ranged())
    fetch_cifar10([source.url], destination, cache)
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


@pytest.mark.parametrize(("backoff", "expected"), [(1.0, [2, 4, 2, 4, 8]), (20.0, [40, 60, 40, 60, 60])])
def test_pauses_double_up_to_a_minute_while_nothing_comes(
    backoff: float,
    expected: list[float],
    mirror: Mirror,
    destination: Path,
    cache: Path,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "BACKOFF", backoff)
    # urllib3 asks the first time again at once
    source = mirror.serve(reply(500), reply(502), reply(504), ranged(0), ranged(0), ranged(0), ranged())
    fetch_cifar10([source.url], destination, cache)
    assert pauses == expected


def test_attempts_are_bounded_however_steady_the_progress(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 12)
    source = mirror.serve(ranged(1))
    refusal([source.url], destination, cache)
    assert len(source.asked) == source.served == 12


def test_download_without_end_is_refused(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", SIZE - 1)
    source = mirror.serve(ranged())
    assert f"larger than {SIZE - 1} bytes" in refusal([source.url], destination, cache)
    assert in_cache(cache) == []


def test_terminal_gets_a_progress_bar(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    fetch_cifar10([mirror.serve(ranged()).url], destination, cache)
    assert "0%|" in terminal.getvalue()
    assert "/1.20M [00:00<?, ?B/s]" in terminal.getvalue()
