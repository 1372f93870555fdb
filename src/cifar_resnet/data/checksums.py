"""The SHA-256 of raw files, noted when they are fetched and compared when they are read."""

import hashlib
from pathlib import Path

from cifar_resnet import files
from cifar_resnet.errors import UserError

NAME = "SHA256SUMS"


def write(folder: Path) -> None:
    """Write the SHA-256 of every file in `folder` and below, in the format of `sha256sum`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    lines = [f"{files.sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    files.write_bytes(folder / NAME, "".join(lines).encode("utf-8", "surrogateescape"))


def read(folder: Path) -> dict[Path, str]:
    """Return the SHA-256 of each file by its path in `folder`."""
    lines = (folder / NAME).read_bytes().decode("utf-8", "surrogateescape").split("\n")
    pairs = (line.split("  ", 1) for line in lines[:-1])
    return {Path(name): digest for digest, name in pairs}


def check(path: Path, content: bytes, digest: str | None) -> None:
    """Raise UserError unless the SHA-256 of a file's `content` is `digest`."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"{path} is damaged: its SHA-256 changed since it was fetched;"
            " `dvc repro --force fetch` makes it again"
        )
