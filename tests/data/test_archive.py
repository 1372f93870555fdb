"""Folders and archives that hold the seven files, and ones that are damaged or hostile."""

import gzip
import tarfile
import zlib
from pathlib import Path

import pytest

from cifar_resnet.data import archive
from cifar_resnet.data.archive import FOLDER, SourceError, unpack
from tests.data.stand_ins import ARCHIVE, FILES, HASHES, TAR, header, member, tar

PLACE = f"{FOLDER}/data_batch_1"
CONTENT = FILES["data_batch_1"]
FIRST = len(member(PLACE, CONTENT))


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SHA256", HASHES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reason(content: bytes, out: Path) -> str:
    """Why an archive is refused, one line; what was written is right and where it belongs."""
    source = out.with_name("archive")
    source.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        unpack(source, out)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(out).items() <= FILES.items()
    assert sorted(path.name for path in out.parent.iterdir()) == ["archive", "out"]
    return str(caught.value)


UNUSUAL = {
    "tar.gz": ARCHIVE,
    "tar of .": tar(FILES, f"./{FOLDER}"),
    "deep, reversed tar": tar(dict(reversed(FILES.items())), f"some/data/{FOLDER}"),
    "second copy is wrong": TAR[:FIRST] + member(PLACE, b"wrong") + TAR[FIRST:],
}


@pytest.mark.parametrize("content", UNUSUAL.values(), ids=UNUSUAL)
def test_archive_of_any_layout_serves(content: bytes, out: Path) -> None:
    source = out.with_name("archive")
    source.write_bytes(content)
    unpack(source, out)
    assert contents(out) == FILES


@pytest.mark.parametrize("given_folder", [FOLDER, "."])
def test_folder_serves_unless_it_lacks_a_file_or_holds_a_wrong_one(
    given_folder: str, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / FOLDER
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    unpack(tmp_path / given_folder, out)
    assert contents(out) == FILES
    (source / "test_batch").write_bytes(b"?")
    with pytest.raises(SourceError, match="test_batch is not the official file: SHA-256 8a8de823d5ed, not "):
        unpack(tmp_path / given_folder, out)
    (source / "test_batch").unlink()
    with pytest.raises(SourceError, match=f"No such file or directory: '{source}/test_batch'"):
        unpack(tmp_path / given_folder, out)


PASSED_OVER = {
    "relative symlink": member(PLACE, kind=tarfile.SYMTYPE, link="data_batch_2"),
    "folder": member(PLACE, kind=tarfile.DIRTYPE),
    "wrong folder": member(f"{FOLDER}/more/data_batch_1", CONTENT),
    "other name": member(f"{FOLDER}/data_batch_6", CONTENT),
}


@pytest.mark.parametrize("stranger", PASSED_OVER.values(), ids=PASSED_OVER)
def test_stranger_in_an_archive_is_passed_over_and_never_taken_for_a_file(stranger: bytes, out: Path) -> None:
    assert reason(stranger + TAR[FIRST:], out) == f"it holds no file {PLACE}"
    out.with_name("archive").write_bytes(stranger + TAR)
    unpack(out.with_name("archive"), out)
    assert contents(out) == FILES


SPARSE = tarfile.TarInfo("x")
SPARSE.pax_headers = {"GNU.sparse.map": "one,two"}  # tarfile raises a ValueError
REFUSED = {
    "no byte": (b"", "unreadable: empty file"),
    "empty tar": (bytes(10240), f"it holds no file {FOLDER}/batches.meta"),
    "no tar": (b"text" * 999, "unreadable: "),
    "no deflate stream": (ARCHIVE[:10] + b"\xff" * 99, "unreadable: "),
    "truncated tar": (TAR[: len(TAR) // 2], "unreadable: unexpected end of data"),
    "wrong copy first": (member(PLACE, b"wrong") + TAR, "data_batch_1 is not the official file"),
    "huge file": (header(PLACE, 2**26 + 1) + TAR, f"'{PLACE}' would unpack to 67108865 bytes"),
    "huge stranger": (header("x\n\33[2J", 2**40) + TAR, r"'x\n\x1b[2J' would unpack to 1099511627776 "),
    "sparse map without numbers": (SPARSE.tobuf(tarfile.PAX_FORMAT) + TAR, "unreadable: "),
    "above": (member(f"../{PLACE}", CONTENT) + TAR, "unreadable: "),
    "symlink": (member(PLACE, kind=tarfile.SYMTYPE, link="/etc/passwd") + TAR, "unreadable: "),
    "device": (member(PLACE, kind=tarfile.CHRTYPE) + TAR, "unreadable: "),
}


@pytest.mark.parametrize(("content", "expected"), REFUSED.values(), ids=REFUSED)
def test_archive_is_refused(content: bytes, expected: str, out: Path) -> None:
    assert reason(content, out).startswith(expected)


def test_gzip_that_breaks_within_a_file_is_refused(out: Path) -> None:
    packing = zlib.compressobj(wbits=31)
    content = packing.compress(TAR[:100_000]) + packing.flush(zlib.Z_SYNC_FLUSH) + b"\xff" * 9
    assert reason(content, out).startswith("unreadable: Error -3 while decompressing")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_bomb_is_refused_before_it_fills_the_memory(
    kind: bytes, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", 2**20)
    bomb = gzip.compress(header("x", 2**23, kind) + bytes(2**23) + TAR)
    assert reason(bomb, out) == "it would unpack to more than 1048576 bytes"
