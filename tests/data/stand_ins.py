"""Seven random files in place of the official ones, 1.2 MB in all; archives and fetches of them."""

import gzip
import hashlib
import random
import tarfile
from pathlib import Path

import pytest

from cifar_resnet.data.official import FOLDER, SHA256
from cifar_resnet.data.sources import fetch_cifar10
from cifar_resnet.errors import UserError

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
    return b"".join(member(f"{folder}/{name}", content) for name, content in files.items()) + bytes(1024)


TAR = tar(FILES)
ARCHIVE = gzip.compress(TAR, 1)
ALTERED = gzip.compress(tar(FILES | {"data_batch_3": b"?" + FILES["data_batch_3"][1:]}), 1)
SIZE = len(ARCHIVE)
HALF = SIZE // 2
DOWN = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # the port of the discard protocol, where nobody listens


class Place:
    """A folder with a place to fetch into and, unless another one is given, a cache."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        self.destination = folder / "data" / FOLDER
        self.cache = cache or folder / "cache"

    def fetch(self, *sources: str) -> str:
        """Fetch; check that the seven files are there, right, and nothing else; return what served them."""
        served = fetch_cifar10(sources, self.destination, self.cache)
        assert {path.name: path.read_bytes() for path in self.destination.iterdir()} == FILES
        assert [path.name for path in self.destination.parent.iterdir()] == [self.destination.name]
        return served

    def kept(self) -> list[str]:
        return [path.name for path in self.cache.iterdir() if path.suffix != ".lock"]

    def files(self) -> dict[Path, bytes]:
        paths = self.destination.parent.rglob("*")
        return {path: path.read_bytes() if path.is_file() else b"" for path in paths}

    def refusal(self, *sources: str) -> str:
        """The message of a fetch that must fail: one line, every source, the fix; all stays as it was."""
        before = self.files()
        with pytest.raises(UserError, match=r"set CIFAR10_SOURCE to a folder or tar\.gz you have$") as caught:
            fetch_cifar10(sources, self.destination, self.cache)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert all(" ".join(source.split()) in message for source in sources)
        assert self.files() == before
        return message
