"""`fetch_cifar10` from a server with one fault at a time and from the disk, and what it leaves there."""

import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cifar_resnet.data import official, sources
from cifar_resnet.data.official import FOLDER
from cifar_resnet.data.sources import CACHED_ARCHIVE, fetch_cifar10
from cifar_resnet.errors import UserError
from tests.data.mirror import Answer, Handler, Mirror, part, ranged, reply, silence, stall
from tests.data.stand_ins import ALTERED, ARCHIVE, DOWN, FILES, HALF, SIZE, Place

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_an_archive_is_sent_once(mirror: Mirror, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    source = mirror.serve(ranged(), reply(404))
    assert place.fetch(source.url) == source.url
    assert source.served == SIZE
    assert place.kept() == [CACHED_ARCHIVE]
    for url in (source.url, DOWN):
        shutil.rmtree(place.destination)
        assert place.fetch(url) == str(place.cache / CACHED_ARCHIVE)
    assert [headers["Accept-Encoding"] for headers in source.asked] == ["identity"]
    assert capfd.readouterr() == ("", "")


PASSING = {
    "cut anywhere": [ranged(0), ranged(1), ranged(HALF), ranged(9), ranged()],
    "503 between cuts": [ranged(9), reply(503), reply(503), ranged(HALF), reply(429), ranged()],
    "named as an encoding": [ranged(cut, Content_Encoding="gzip") for cut in (HALF, None)],
    "Content-Length too long": [ranged(Content_Length=str(SIZE + 999)), ranged()],
    "in pieces": [ranged(HALF), part(HALF, SIZE - 99), ranged()],
}
UNRESUMABLE = {
    "Range ignored": [reply(200, ARCHIVE, HALF), reply(200, ARCHIVE)],
    "206 from another byte, twice": [ranged(HALF), part(9, SIZE), ranged(HALF), part(9, SIZE), ranged()],
}


@pytest.mark.parametrize("answers", (PASSING | UNRESUMABLE).values(), ids=PASSING | UNRESUMABLE)
def test_passing_fault_costs_no_byte_twice(answers: list[Answer], mirror: Mirror, place: Place) -> None:
    source = mirror.serve(*answers)
    assert place.fetch(source.url) == source.url
    assert len(source.asked) == len(answers)
    assert source.served <= 1.05 * SIZE or answers in UNRESUMABLE.values()
    assert place.kept() == [CACHED_ARCHIVE]


@pytest.mark.parametrize("answers", [[ranged(HALF), reply(416)], [ranged(HALF, ALTERED), ranged()]])
def test_a_wrong_part_is_loaded_again_the_next_time(
    answers: list[Answer], mirror: Mirror, place: Place
) -> None:
    source = mirror.serve(*answers, ranged())
    assert re.search("unreadable: |not the official file", place.refusal(source.url))
    assert place.kept() == []
    assert place.fetch(source.url) == source.url


def test_silent_servers(mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT", (5.0, 0.5))
    monkeypatch.setattr(sources, "RETRIES", 2)
    silent, slow = mirror.serve(silence), mirror.serve(silence, stall(0), stall(HALF), ranged())
    assert f"{silent.url}: timed out" in place.refusal(silent.url)
    assert len(silent.asked) == 3
    assert place.fetch(slow.url) == slow.url
    assert slow.served <= 1.05 * SIZE


def test_a_server_that_drips_is_left_for_the_next_source(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "MINUTE", 0.0)
    monkeypatch.setattr(sources, "SLOWEST", 2)
    dripping, sound = mirror.serve(ranged(3)), mirror.serve(ranged())  # after two bytes one more
    assert place.fetch(dripping.url, sound.url) == sound.url
    assert capfd.readouterr().out == f"no CIFAR-10 from {dripping.url}: less than 2 bytes in a minute\n"


LASTING: list[tuple[Answer, str, int]] = [  # the reason, the number of requests
    (reply(404, b"gone"), "HTTP 404", 1),
    (ranged(body=ALTERED), "data_batch_3 is not the official file: SHA-256 ", 1),
    (ranged(HALF, ALTERED), "data_batch_3 is not the official file", 3),
    (reply(200, b"<html>", Content_Type="text/html"), "not a gzip archive but text/html", 1),
    (reply(200, ARCHIVE[:HALF]), "unreadable: Compressed file ended", 1),
    (reply(200, ARCHIVE, HALF), f"IncompleteRead({HALF} bytes", 6),
    (reply(503), "HTTP 503", 6),
    (reply(302, Location="file:///etc/passwd"), "No connection adapters were found", 1),
]


def test_lasting_faults_are_one_line_and_the_next_source_serves(mirror: Mirror, place: Place) -> None:
    served, sound = [mirror.serve(answer) for answer, _, _ in LASTING], mirror.serve(ranged())
    reasons = {
        **{source.url: reason for source, (_, reason, _) in zip(served, LASTING, strict=True)},
        DOWN: "[Errno 111] Connection refused, after 0 bytes and several attempts",
        "http://[": "Invalid IPv6 URL",
        "~nobody-of-this-name": "",
        "no\nsuch": "unreadable: [Errno 2] No such file or directory",
    }
    message = place.refusal(*reasons)
    told = [f"{' '.join(source.split())}: {reason}" for source, reason in reasons.items()]
    places = [message.find(text) for text in told]
    assert places == sorted(places)
    assert places[0] > 0, message
    assert [len(source.asked) for source in served] == [requests for _, _, requests in LASTING]
    secret = [url.replace("tp://", "tp://me:s3cr%2Ft@") for url in (*reasons, "ftp://h/x", sound.url)]
    with pytest.raises(UserError) as caught:
        fetch_cifar10(secret[:-1], place.destination, place.cache)
    assert "s3cr" not in str(caught.value)
    assert place.fetch(*secret) == sound.url
    assert sound.served == SIZE
    assert sound.asked[0]["Authorization"].startswith("Basic ")


def test_pauses_double(mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(sources, "BACKOFF", 10.0)
    answers = [reply(500), reply(502), reply(504), reply(429), ranged(0), ranged()]
    place.fetch(mirror.serve(*answers).url)
    assert pauses == [10, 20, 40, 80, 160]


def test_attempts_and_bytes_end(mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ATTEMPTS", 12)
    monkeypatch.setattr(official, "ARCHIVE_LIMIT", SIZE - 1)
    steady, endless = mirror.serve(ranged(1)), mirror.serve(ranged())
    message = place.refusal(steady.url, endless.url)
    assert len(steady.asked) == steady.served == 12
    assert f"{endless.url}: larger than {SIZE - 1} bytes" in message
    assert len(place.kept()) == 1  # the part of the first


def test_old_files_stay_until_a_source_works_and_a_damaged_archive_goes(mirror: Mirror, place: Place) -> None:
    for path in (
        place.destination / "data_batch_1",
        place.destination / "stale",
        place.cache / CACHED_ARCHIVE,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ARCHIVE[:HALF])
    source = mirror.serve(reply(404), ranged())
    place.refusal(source.url)
    assert place.kept() == []
    assert place.fetch(source.url) == source.url
    assert (source.served, (place.cache / CACHED_ARCHIVE).read_bytes()) == (SIZE, ARCHIVE)


def interrupted(url: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The part that a server which breaks off leaves behind."""
    with monkeypatch.context() as patch:
        patch.setattr(sources, "ATTEMPTS", 1)
        place.refusal(url)
    return next(place.cache.glob("*.part"))


def test_a_part_lives_until_an_archive_is_whole(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = (
        mirror.serve(ranged(HALF), reply(200, b"<html>"), ranged()),
        mirror.serve(ranged(9, ALTERED)),
    )
    kept = interrupted(source.url, place, monkeypatch)
    assert "not a gzip archive" in place.refusal(source.url)  # the page of a captive portal
    assert kept.read_bytes() == ARCHIVE[:HALF]
    interrupted(other.url, place, monkeypatch)
    place.fetch(source.url)
    assert source.served <= 1.05 * SIZE
    assert place.kept() == [CACHED_ARCHIVE]


def test_killed_download_is_resumed(mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process sees on the disk at some moment is what a kill at that moment leaves."""
    killed, arrived, blocks = Place(place.folder / "killed"), threading.Event(), [0]

    def update(count: int) -> None:
        blocks.append(count)
        if sum(blocks) >= HALF:
            arrived.set()

    def watched(handler: Handler) -> None:
        ranged(HALF)(handler)
        arrived.wait(10)
        shutil.copytree(place.cache, killed.cache)

    bar = mock.MagicMock()
    bar().__enter__().update = update
    monkeypatch.setattr(sources, "tqdm", bar)
    source = mirror.serve(watched, ranged())
    place.fetch(source.url)
    before = source.served
    killed.fetch(source.url)
    assert source.served - before <= HALF + 0.05 * SIZE


def test_fetches_at_the_same_time_load_the_archive_once(mirror: Mirror, place: Place) -> None:
    sources = [mirror.serve(ranged()) for _ in range(4)]
    places = [Place(place.folder / str(number % 3), place.cache) for number in range(4)]  # two in one clone
    with ThreadPoolExecutor() as pool:
        served = list(pool.map(lambda source, place: place.fetch(source.url), sources, places))
    assert sum(source.served for source in sources) == SIZE
    assert served.count(str(place.cache / CACHED_ARCHIVE)) == 3


def test_full_disk_is_raised_at_once(mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = mirror.serve(ranged(9), ranged()), mirror.serve(ranged())
    kept, honest = interrupted(source.url, place, monkeypatch), Path.open

    for pattern in ("*.part", "*data_batch_4*"):  # of the cache, then of the destination

        def full(path: Path, *given: Any, pattern: str = pattern, **options: Any) -> Any:
            return honest(Path("/dev/full") if path.match(pattern) else path, *given, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            with pytest.raises(OSError, match="No space left"):
                place.fetch(source.url, other.url)
        assert other.asked == []
        assert not any(place.destination.parent.iterdir())
    assert kept.stat().st_size == SIZE
    asked = len(source.asked)
    place.fetch(source.url)
    assert len(source.asked) == asked + 1, "a part that is whole serves"


@pytest.mark.parametrize("source", ["{}", f"{{}}/{FOLDER}", "~", "file://{}/a%20b.tgz"])
def test_local_source_serves(source: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place.folder / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / FOLDER).mkdir(parents=True)
    for name, content in FILES.items():
        (home / FOLDER / name).write_bytes(content)
    (home / "a b.tgz").write_bytes(ARCHIVE)
    assert place.fetch(source.format(home)) == source.format(home)
    assert place.kept() == []
