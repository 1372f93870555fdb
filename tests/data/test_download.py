"""`fetch_cifar10` from a server with one fault at a time; what it counts tells what was fetched twice."""

import io
import sys
import time
from pathlib import Path

import pytest

from cifar_resnet.data import archive, download
from cifar_resnet.data.sources import KEPT, fetch_cifar10
from cifar_resnet.files.params import UserError
from tests.data.mirror import Answer, Mirror, ranged, reply, silence, stall
from tests.data.stand_ins import ALTERED, ARCHIVE, DOWN, HALF, SIZE, assert_arrived, in_cache, refusal

pytestmark = pytest.mark.usefixtures("stand_ins")


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


PASSING = {
    "cut anywhere": [ranged(0), ranged(1), ranged(HALF), ranged(9), ranged()],
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
    monkeypatch.setattr(download, "RETRIES", 2)
    silent, slow = mirror.serve(silence), mirror.serve(silence, stall(0), stall(HALF), ranged())
    assert f"{silent.url}: timed out" in refusal([silent.url], destination, cache)
    assert len(silent.asked) == 3
    assert fetch_cifar10([slow.url], destination, cache) == slow.url
    assert slow.served <= 1.05 * SIZE


UNRESUMABLE = {
    "Range ignored": [reply(200, ARCHIVE, HALF), reply(200, ARCHIVE)],
    "416": [ranged(HALF), reply(416), ranged()],
    "206 from another byte, twice": [
        *[ranged(HALF), reply(206, ARCHIVE[9:], Content_Range=f"bytes 9-{SIZE - 1}/{SIZE}")] * 2,
        ranged(),
    ],
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
    "archive truncated": (reply(200, ARCHIVE[:HALF]), "unreadable: Compressed file ended", 1),
    "cut at the same byte": (reply(200, ARCHIVE, HALF), f"IncompleteRead({HALF} bytes", 6),
    "always busy": (reply(503), "HTTP 503", 6),
    "416": (reply(416), "HTTP 416", 1),
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


def test_pauses_double_up_to_a_minute_whatever_the_server_asks_for(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(download, "BACKOFF", 10.0)
    # urllib3 asks again at once after a 500 that comes first, so the 429 comes first
    busy = [reply(429, Retry_After="86400"), reply(500), reply(502), reply(504)]
    fetch_cifar10([mirror.serve(*busy, *[ranged(0)] * 3, ranged()).url], destination, cache)
    assert pauses == [60, 20, 40, 60, 20, 40, 60]


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
