"""`fetch_cifar10` from a server with one fault at a time and from the disk, and what it leaves there."""

import errno
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cifar_resnet.data import archive, download
from cifar_resnet.data.archive import FOLDER
from cifar_resnet.data.sources import KEPT
from tests.data.mirror import Answer, Handler, Mirror, ranged, reply, silence, stall
from tests.data.stand_ins import ALTERED, ARCHIVE, DOWN, FILES, HALF, SIZE, Place

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_sound_server_sends_the_archive_once_and_nothing_is_printed(
    mirror: Mirror, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    source = mirror.serve(ranged())
    assert place.fetch(source.url) == source.url
    assert source.served == SIZE
    assert [headers["Accept-Encoding"] for headers in source.asked] == ["identity"]
    assert place.kept() == [KEPT]
    assert capfd.readouterr() == ("", "")


PASSING = {
    "cut anywhere": [ranged(0), ranged(1), ranged(HALF), ranged(9), ranged()],
    "503 between cuts": [ranged(9), reply(503), reply(503), ranged(HALF), reply(429), ranged()],
    "named as an encoding": [ranged(cut, Content_Encoding="gzip") for cut in (HALF, None)],
    "Content-Length too long": [ranged(Content_Length=str(SIZE + 999)), ranged()],
    "range answered in pieces": [
        ranged(HALF),
        reply(206, ARCHIVE[HALF:-99], Content_Range=f"bytes {HALF}-{SIZE - 100}/{SIZE}"),
        ranged(),
    ],
}
UNRESUMABLE = {
    "Range ignored": [reply(200, ARCHIVE, HALF), reply(200, ARCHIVE)],
    "416": [ranged(HALF), reply(416), ranged()],
    "206 from another byte, twice": [
        *[ranged(HALF), reply(206, ARCHIVE[9:], Content_Range=f"bytes 9-{SIZE - 1}/{SIZE}")] * 2,
        ranged(),
    ],
    "pieces of two versions": [ranged(HALF, ALTERED), ranged(), ranged()],
}


@pytest.mark.parametrize("answers", (PASSING | UNRESUMABLE).values(), ids=PASSING | UNRESUMABLE)
def test_passing_fault_costs_no_byte_twice_unless_the_download_cannot_be_resumed(
    answers: list[Answer], mirror: Mirror, place: Place
) -> None:
    source = mirror.serve(*answers)
    assert place.fetch(source.url) == source.url
    assert len(source.asked) == len(answers)
    assert source.served <= 1.05 * SIZE or answers in UNRESUMABLE.values()
    assert place.kept() == [KEPT]


def test_server_that_falls_silent_is_asked_again_and_given_up_in_the_end(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 0.5))
    monkeypatch.setattr(download, "RETRIES", 2)
    silent, slow = mirror.serve(silence), mirror.serve(silence, stall(0), stall(HALF), ranged())
    assert f"{silent.url}: timed out" in place.refusal(silent.url)
    assert len(silent.asked) == 3
    assert place.fetch(slow.url) == slow.url
    assert slow.served <= 1.05 * SIZE


LASTING: dict[str, tuple[Answer, str, int]] = {
    "missing": (reply(404, b"gone"), "HTTP 404", 1),
    "altered member": (ranged(body=ALTERED), "data_batch_3 is not the official file: SHA-256 ", 1),
    "altered member in pieces": (ranged(HALF, ALTERED), "data_batch_3 is not the official file", 6),
    "HTML page": (reply(200, b"<html>", Content_Type="text/html"), "not a gzip archive but text/html", 1),
    "archive truncated": (reply(200, ARCHIVE[:HALF]), "unreadable: Compressed file ended", 1),
    "cut at the same byte": (reply(200, ARCHIVE, HALF), f"IncompleteRead({HALF} bytes", 6),
    "always busy": (reply(503), "HTTP 503", 6),
    "another protocol": (reply(302, Location="file:///etc/passwd"), "No connection adapters were found", 1),
}


@pytest.mark.parametrize(("answer", "reason", "requests"), LASTING.values(), ids=LASTING)
def test_lasting_fault_is_one_line_and_the_next_source_serves(
    answer: Answer, reason: str, requests: int, mirror: Mirror, place: Place
) -> None:
    source, sound = mirror.serve(answer), mirror.serve(ranged())
    assert f"{source.url}: {reason}" in place.refusal(source.url)
    assert len(source.asked) == requests
    assert place.fetch(source.url, sound.url) == sound.url
    assert sound.served == SIZE


def test_message_lists_every_source_with_its_reason_in_one_line(
    mirror: Mirror, place: Place, tmp_path: Path
) -> None:
    missing, altered = mirror.serve(reply(404)), mirror.serve(ranged(body=ALTERED))
    strange = ["http://[", "~nobody-of-this-name/data"]
    message = place.refusal(str(tmp_path / "none"), missing.url, altered.url, DOWN, *strange)
    assert f"{tmp_path / 'none'}: unreadable: [Errno 2] No such file or directory" in message
    assert f"; {missing.url}: HTTP 404; {altered.url}: data_batch_3 is not" in message
    assert f"; {DOWN}: [Errno 111] Connection refused; http://[: Invalid IPv6 URL; ~nobody" in message
    assert place.kept() == []
    assert "(no such: unreadable" in place.refusal("no\nsuch")


def test_pauses_double_up_to_a_minute_whatever_the_server_asks_for(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(download, "BACKOFF", 10.0)
    # urllib3 asks again at once after a 500 that comes first, so the 429 comes first
    busy = [reply(429, Retry_After="86400"), reply(500), reply(502), reply(504)]
    place.fetch(mirror.serve(*busy, *[ranged(0)] * 3, ranged()).url)
    assert pauses == [60, 20, 40, 60, 20, 40, 60]


def test_attempts_are_bounded_however_steady_the_progress(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 12)
    source = mirror.serve(ranged(1))
    place.refusal(source.url)
    assert len(source.asked) == source.served == 12


def test_download_without_end_is_refused(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", SIZE - 1)
    source = mirror.serve(ranged())
    assert f"larger than {SIZE - 1} bytes" in place.refusal(source.url)
    assert place.kept() == []


def test_kept_archive_serves_without_a_network_whatever_url_it_came_from(
    mirror: Mirror, place: Place
) -> None:
    source = mirror.serve(ranged(), reply(404))
    place.fetch(source.url)
    for url in (source.url, DOWN):
        shutil.rmtree(place.destination)
        assert place.fetch(url) == str(place.cache / KEPT)
    assert len(source.asked) == 1


def test_kept_archive_that_is_damaged_is_thrown_away_and_loaded_again(mirror: Mirror, place: Place) -> None:
    source = mirror.serve(reply(404), ranged())
    place.cache.mkdir(parents=True)
    (place.cache / KEPT).write_bytes(ARCHIVE[:HALF])
    place.refusal(source.url)
    assert place.kept() == []
    assert place.fetch(source.url) == source.url
    assert source.served == SIZE
    assert (place.cache / KEPT).read_bytes() == ARCHIVE


def interrupted(url: str, place: Place) -> Path:
    """The part that a server which breaks off leaves behind."""
    with mock.patch.object(download, "ATTEMPTS", 1):
        place.refusal(url)
    (part,) = place.cache.glob("*.part")
    return part


def test_page_of_a_captive_portal_does_not_cost_the_part(mirror: Mirror, place: Place) -> None:
    source = mirror.serve(ranged(HALF), reply(200, b"<html>"), ranged())
    part = interrupted(source.url, place)
    assert "not a gzip archive" in place.refusal(source.url)
    assert part.read_bytes() == ARCHIVE[:HALF]
    place.fetch(source.url)
    assert source.served <= 1.05 * SIZE


def test_parts_of_two_urls_are_not_mixed_and_do_not_outlive_a_whole_archive(
    mirror: Mirror, place: Place
) -> None:
    altered, sound = mirror.serve(ranged(HALF, ALTERED)), mirror.serve(ranged())
    interrupted(altered.url, place)
    place.fetch(sound.url)
    assert sound.served == SIZE
    assert place.kept() == [KEPT]


def test_download_killed_half_way_is_resumed_by_the_next_call(mirror: Mirror, place: Place) -> None:
    """What another process sees on the disk at some moment is what a kill at that moment leaves."""
    killed = Place(place.folder / "killed")

    def watched(handler: Handler) -> None:
        ranged(HALF)(handler)
        while sum(path.stat().st_size for path in place.cache.glob("*.part")) < HALF - 8192:
            time.sleep(0.01)
        shutil.copytree(place.cache, killed.cache)

    source = mirror.serve(watched, ranged())
    place.fetch(source.url)
    assert list(killed.cache.glob("*.part"))
    before = source.served
    killed.fetch(source.url)
    assert source.served - before <= HALF + 0.05 * SIZE


@pytest.mark.parametrize("clones", [1, 3])
def test_fetches_at_the_same_time_load_the_archive_once(clones: int, mirror: Mirror, place: Place) -> None:
    sources = [mirror.serve(ranged()) for _ in range(4)]
    places = [Place(place.folder / str(number % clones), place.cache) for number in range(4)]
    with ThreadPoolExecutor() as pool:
        served = list(pool.map(lambda source, place: place.fetch(source.url), sources, places))
    assert sum(source.served for source in sources) == SIZE
    assert served.count(str(place.cache / KEPT)) == 3


def test_full_disk_under_the_cache_is_raised_at_once(mirror: Mirror, place: Place) -> None:
    source, other = mirror.serve(ranged(9), ranged()), mirror.serve(ranged())
    part = interrupted(source.url, place)
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        place.fetch(source.url, other.url)
    assert caught.value.errno == errno.ENOSPC
    assert other.asked == []
    assert not any(place.destination.parent.iterdir())


def test_full_disk_under_the_destination_is_raised_at_once_and_keeps_the_part(
    mirror: Mirror, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = mirror.serve(ranged()), mirror.serve(ranged())
    honest = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        return honest(Path("/dev/full") if "data_batch_4" in path.name else path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            place.fetch(source.url, other.url)
    assert other.asked == []
    assert not any(place.destination.parent.iterdir())
    place.fetch(source.url)
    assert source.served == SIZE


def test_old_destination_stays_when_no_source_works_and_is_replaced_when_one_does(
    mirror: Mirror, place: Place
) -> None:
    place.destination.mkdir(parents=True)
    for name in ("data_batch_1", "stale"):
        (place.destination / name).write_text("old")
    source = mirror.serve(reply(404), ranged())
    place.refusal(source.url)
    place.fetch(source.url)


@pytest.mark.parametrize("source", ["{}", "~", "file://{}/a%20b.tgz"])
def test_local_source_serves(
    source: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / FOLDER).mkdir(parents=True)
    for name, content in FILES.items():
        (home / FOLDER / name).write_bytes(content)
    (home / "a b.tgz").write_bytes(ARCHIVE)
    source = source.format(home)
    assert place.fetch(source) == source
    assert place.kept() == []
