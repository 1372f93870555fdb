"""What a fetch finds on the disk and leaves there: archives, parts, locks, a full disk, local sources."""

import errno
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet import files
from cifar_resnet.data import download
from cifar_resnet.data.archive import FOLDER
from cifar_resnet.data.sources import KEPT, fetch_cifar10
from tests.data.mirror import Handler, Mirror, ranged, reply
from tests.data.stand_ins import ALTERED, ARCHIVE, DOWN, FILES, HALF, SIZE, assert_arrived, in_cache, refusal

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_kept_archive_serves_without_a_network_whatever_url_it_came_from(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    source = mirror.serve(ranged(), reply(404))
    fetch_cifar10([source.url], destination, cache)
    for url in (source.url, DOWN):
        shutil.rmtree(destination)
        assert fetch_cifar10([url], destination, cache) == str(cache / KEPT)
        assert_arrived(destination)
    assert len(source.asked) == 1


def test_kept_archive_that_is_damaged_is_thrown_away_and_loaded_again(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    source = mirror.serve(reply(404), ranged())
    cache.mkdir()
    (cache / KEPT).write_bytes(ARCHIVE[:HALF])
    refusal([source.url], destination, cache)
    assert in_cache(cache) == []
    assert fetch_cifar10([source.url], destination, cache) == source.url
    assert_arrived(destination)
    assert source.served == SIZE
    assert (cache / KEPT).read_bytes() == ARCHIVE


def interrupted(url: str, destination: Path, cache: Path) -> Path:
    """The part that a server which breaks off leaves behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        refusal([url], destination, cache)
    (part,) = cache.glob("*.part")
    return part


def test_page_of_a_captive_portal_does_not_cost_the_part(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    source = mirror.serve(ranged(HALF), reply(200, b"<html>"), ranged())
    part = interrupted(source.url, destination, cache)
    assert "not a gzip archive" in refusal([source.url], destination, cache)
    assert part.read_bytes() == ARCHIVE[:HALF]
    fetch_cifar10([source.url], destination, cache)
    assert source.served <= 1.05 * SIZE


def test_parts_of_two_urls_are_not_mixed_and_do_not_outlive_a_whole_archive(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    altered, sound = mirror.serve(ranged(HALF, ALTERED)), mirror.serve(ranged())
    interrupted(altered.url, destination, cache)
    fetch_cifar10([sound.url], destination, cache)
    assert_arrived(destination)
    assert sound.served == SIZE
    assert in_cache(cache) == [KEPT]


def test_download_killed_half_way_is_resumed_by_the_next_call(
    mirror: Mirror, destination: Path, cache: Path, tmp_path: Path
) -> None:
    """What another process sees on the disk at some moment is what a kill at that moment leaves."""
    copy = tmp_path / "copy"

    def watched(handler: Handler) -> None:
        ranged(HALF)(handler)
        while sum(path.stat().st_size for path in cache.glob("*.part")) < HALF - 8192:
            time.sleep(0.01)
        shutil.copytree(cache, copy)

    source = mirror.serve(watched, ranged())
    fetch_cifar10([source.url], destination, cache)
    assert list(copy.glob("*.part"))
    before = source.served
    fetch_cifar10([source.url], destination, copy)
    assert_arrived(destination)
    assert source.served - before <= HALF + 0.05 * SIZE


def test_fetch_killed_between_two_files_leaves_no_half_filled_destination(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, states = mirror.serve(ranged()), tmp_path / "states"
    write = files.write_bytes

    def watched(path: Path, content: bytes) -> None:
        write(path, content)
        shutil.copytree(tmp_path / "fetch", states / path.name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", watched)
        fetch_cifar10([source.url], tmp_path / "fetch/data" / FOLDER, tmp_path / "fetch/cache")
    assert sorted(path.name for path in states.iterdir()) == sorted(FILES)
    for state in states.iterdir():
        assert not (state / "data" / FOLDER).exists()
        fetch_cifar10([source.url], state / "data" / FOLDER, state / "cache")
        assert_arrived(state / "data" / FOLDER)
    assert source.served == SIZE


def test_fetches_into_one_folder_do_not_disturb_each_other(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        urls = [mirror.serve(ranged()).url for _ in range(4)]
        served = list(pool.map(lambda url: fetch_cifar10([url], destination, cache), urls))
    assert len(set(served) & set(urls)) == 1
    assert set(served) - set(urls) == {str(cache / KEPT)}
    assert_arrived(destination)


def test_fetches_of_several_clones_load_the_archive_once(mirror: Mirror, tmp_path: Path, cache: Path) -> None:
    source = mirror.serve(ranged())
    destinations = [tmp_path / clone / FOLDER for clone in "abc"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda destination: fetch_cifar10([source.url], destination, cache), destinations))
    for destination in destinations:
        assert_arrived(destination)
    assert source.served == SIZE


def test_full_disk_under_the_cache_is_raised_at_once(mirror: Mirror, destination: Path, cache: Path) -> None:
    source, other = mirror.serve(ranged(9), ranged()), mirror.serve(ranged())
    part = interrupted(source.url, destination, cache)
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        fetch_cifar10([source.url, other.url], destination, cache)
    assert caught.value.errno == errno.ENOSPC
    assert other.asked == []
    assert not any(destination.parent.iterdir())


def test_full_disk_under_the_destination_is_raised_at_once_and_keeps_the_part(
    mirror: Mirror, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = mirror.serve(ranged()), mirror.serve(ranged())
    honest = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        return honest(Path("/dev/full") if "data_batch_4" in path.name else path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            fetch_cifar10([source.url, other.url], destination, cache)
    assert other.asked == []
    assert not any(destination.parent.iterdir())
    fetch_cifar10([source.url], destination, cache)
    assert_arrived(destination)
    assert source.served == SIZE


def test_old_destination_stays_when_no_source_works_and_is_replaced_when_one_does(
    mirror: Mirror, destination: Path, cache: Path
) -> None:
    destination.mkdir(parents=True)
    (destination / "data_batch_1").write_text("old")
    (destination / "stale").write_text("old")
    source = mirror.serve(reply(404), ranged())
    refusal([source.url], destination, cache)
    fetch_cifar10([source.url], destination, cache)
    assert_arrived(destination)


@pytest.mark.parametrize("source", ["{}", "~", "file://{}/a%20b.tgz"])
def test_local_source_serves(
    source: str, tmp_path: Path, destination: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / FOLDER).mkdir(parents=True)
    for name, content in FILES.items():
        (home / FOLDER / name).write_bytes(content)
    (home / "a b.tgz").write_bytes(ARCHIVE)
    source = source.format(home)
    assert fetch_cifar10([source], destination, cache) == source
    assert_arrived(destination)
    assert in_cache(cache) == []
