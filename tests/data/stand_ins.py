"""Seven random files in place of the official ones, 1.2 MB in all; archives and fetches of them."""

import gzip
import hashlib
import random
import tarfile
from pathlib import Path

import pytest

from cifar_resnet.data.archive import FOLDER, SHA256
from cifar_resnet.data.sources import fetch_cifar10
from cifar_resnet.files.params import UserError

FILES = {name: random.Random(name).randbytes(158 if name == "batches.meta" else 200_000) for name in SHA256}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One member of a tar, without its content."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One member of a tar: its header and its padded content."""
    return header(name, len(content), kind, link) + content + bytes(-len(content) % 512)


def tar(files: dict[str, bytes], folder: str = FOLDER) -> bytes:
    """A tar with `files` in `folder`."""
    return b"".join(member(f"{folder}/{name}", content) for name, content in files.items()) + bytes(1024)


TAR = tar(FILES)
ARCHIVE = gzip.compress(TAR, 1)
ALTERED = gzip.compress(tar(FILES | {"data_batch_3": b"?" + FILES["data_batch_3"][1:]}), 1)
SIZE = len(ARCHIVE)
HALF = SIZE // 2
DOWN = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # the port of the discard protocol, where nobody listens


def assert_arrived(destination: Path) -> None:
    """The seven files are there, right, with nothing else in their folder or beside it."""
    assert {path.name: path.read_bytes() for path in destination.iterdir()} == FILES
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


def in_cache(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def refusal(sources: list[str], destination: Path, cache: Path) -> str:
    """The message of a fetch that must fail: one line, every source, the fix; `destination` is as before."""
    before = {path: path.is_file() and path.read_bytes() for path in destination.parent.rglob("*")}
    with pytest.raises(UserError, match=r"set CIFAR10_SOURCE to a folder or tar\.gz you have$") as caught:
        fetch_cifar10(sources, destination, cache)
    assert len(str(caught.value).splitlines()) == 1
    assert all(source in str(caught.value) for source in sources)
    assert before == {path: path.is_file() and path.read_bytes() for path in destination.parent.rglob("*")}
    return str(caught.value)
