"""Folders and archives that hold the seven files, and ones that are damaged or hostile."""

import gzip
import os
import tarfile
import zlib
from pathlib import Path

import pytest

from cifar_resnet.data import official
from cifar_resnet.data.official import FOLDER, SourceError, unpack
from tests.data.stand_ins import ARCHIVE, FILES, HASHES, TAR, header, member, tar

PLACE = f"{FOLDER}/data_batch_1"
CONTENT = FILES["data_batch_1"]
FIRST = len(member(PLACE, CONTENT))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(official, "SHA256", HASHES)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unpacked(content: bytes, out: Path) -> dict[str, bytes]:
    """What is written of an archive, and nothing outside of `out`."""
    out.with_name("archive").write_bytes(content)
    try:
        unpack(out.with_name("archive"), out)
    finally:
        assert sorted(path.name for path in out.parent.iterdir()) == ["archive", "out"]
    return contents(out)


def reason(content: bytes, out: Path) -> str:
    """Why an archive is refused, one line; what was written is right and where it belongs."""
    with pytest.raises(SourceError) as caught:
        unpacked(content, out)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(out).items() <= FILES.items()
    return str(caught.value)


UNUSUAL = {
    "tar.gz": ARCHIVE,
    "tar of .": tar(FILES, f"./{FOLDER}"),
    "deep, reversed tar": tar(dict(reversed(FILES.items())), f"some/data/{FOLDER}"),
    "path that leads out": tar(FILES, f"/../../{FOLDER}"),
    "second copy is wrong": TAR[:FIRST] + member(PLACE, b"wrong") + TAR[FIRST:],
}


@pytest.mark.parametrize("content", UNUSUAL.values(), ids=UNUSUAL)
def test_archive_of_any_layout_serves(content: bytes, out: Path) -> None:
    assert unpacked(content, out) == FILES


def test_folder_that_lacks_a_file_or_holds_a_wrong_one_is_refused(tmp_path: Path, out: Path) -> None:
    source = tmp_path / FOLDER
    source.mkdir()
    for name, content in (FILES | {"test_batch": b"?"}).items():
        (source / name).write_bytes(content)
    with pytest.raises(SourceError, match="test_batch is not the official file: SHA-256 8a8de823d5ed, not "):
        unpack(tmp_path, out)
    (source / "test_batch").unlink()
    with pytest.raises(SourceError, match=f"No such file or directory: '{source}/test_batch'"):
        unpack(source, out)
    (source / "data_batch_1").unlink()
    (source / "data_batch_1").symlink_to(os.devnull)  # no file, as a pipe, which would be waited for
    with pytest.raises(SourceError, match="data_batch_1 is no file"):
        unpack(source, out)
    with pytest.raises(SourceError, match="data_batch_1 is no file"):
        unpack(source / "data_batch_1", out)


PASSED_OVER = {
    "symlink out of the archive": member(PLACE, kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "device": member(PLACE, kind=tarfile.CHRTYPE),
    "folder": member(PLACE, kind=tarfile.DIRTYPE),
    "wrong folder": member(f"{FOLDER}/more/data_batch_1", CONTENT),
    "other name": member(f"{FOLDER}/data_batch_6", CONTENT),
}


@pytest.mark.parametrize("stranger", PASSED_OVER.values(), ids=PASSED_OVER)
def test_stranger_in_an_archive_is_passed_over_and_never_taken_for_a_file(stranger: bytes, out: Path) -> None:
    assert reason(stranger + TAR[FIRST:], out) == f"it holds no file {PLACE}"
    assert unpacked(stranger + TAR, out) == FILES


SPARSE = tarfile.TarInfo("x")
SPARSE.pax_headers = {"GNU.sparse.map": "one,two"}  # tarfile raises a ValueError
PACKED = zlib.compressobj(wbits=31)
BROKEN = PACKED.compress(TAR[:100_000]) + PACKED.flush(zlib.Z_SYNC_FLUSH) + b"\xff" * 9
REFUSED = {
    "no byte": (b"", "unreadable: empty file"),
    "empty tar": (bytes(10240), f"it holds no file {FOLDER}/batches.meta"),
    "no tar": (b"text" * 999, "unreadable: "),
    "no deflate stream": (ARCHIVE[:10] + b"\xff" * 99, "unreadable: "),
    "gzip broken in a file": (BROKEN, "unreadable: Error -3 while decompressing"),
    "truncated tar": (TAR[: len(TAR) // 2], "unreadable: unexpected end of data"),
    "wrong copy first": (member(PLACE, b"wrong") + TAR, "data_batch_1 is not the official file"),
    "huge file": (header(PLACE, 2**26 + 1) + TAR, f"'{PLACE}' would unpack to 67108865 bytes"),
    "PAX records in a row": (header("x", 0, tarfile.XGLTYPE) * 999 + TAR, "unreadable: maximum recursion"),
    "huge stranger": (header("x\n\33[2J", 2**40) + TAR, r"'x\n\x1b[2J' would unpack to 1099511627776 "),
    "sparse map without numbers": (SPARSE.tobuf(tarfile.PAX_FORMAT) + TAR, "unreadable: "),
}


@pytest.mark.parametrize(("content", "expected"), REFUSED.values(), ids=REFUSED)
def test_archive_is_refused(content: bytes, expected: str, out: Path) -> None:
    assert reason(content, out).startswith(expected)


def test_bomb_is_refused_before_it_fills_the_memory(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "ARCHIVE_LIMIT", 2**20)
    bomb = gzip.compress(header("x", 2**23) + bytes(2**23) + TAR)
    assert reason(bomb, out) == "it would unpack to more than 1048576 bytes"
