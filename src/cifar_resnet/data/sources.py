"""CIFAR-10 from the first source that has it: a folder, an archive, a URL."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from pydantic import Field

from cifar_resnet.data import archive
from cifar_resnet.data.archive import SourceError
from cifar_resnet.data.download import download
from cifar_resnet.data.synthetic import SyntheticConfig
from cifar_resnet.files.params import Config, UserError

KEPT = "cifar-10-python.tar.gz"


class FetchConfig(Config):
    """`sources`: folders, archives or URLs, tried in order after the environment variable CIFAR10_SOURCE.

    `folder`: where the pictures of the dataset `folder` lie.
    """

    dataset: Literal["cifar10", "synthetic", "folder"]
    folder: str = Field(min_length=1)
    sources: list[str] = Field(min_length=1)
    synthetic: SyntheticConfig


def fetch_cifar10(sources: Sequence[str], destination: Path, cache: Path) -> str:
    """Return what served the seven files, a source or a kept archive; they replace `destination` by a rename.

    A source is a folder that holds `cifar-10-batches-py`, that folder itself, a tar or tar.gz, or the http(s)
    or file URL of a tar.gz. `cache` holds downloads: a broken one, which the next call resumes, and the last
    whole one (170 MB) under the name KEPT. That one serves instead of any URL, because the SHA-256 of the
    files decides; to fetch again needs no network. When it is damaged, it is thrown away and loaded again.
    Raises UserError with each source's reason when all failed, and OSError when `destination` or `cache`
    cannot be written, which no other source would mend.
    """
    cache.mkdir(parents=True, exist_ok=True)
    workspace = destination.with_name(f".{destination.name}.tmp")
    reasons = []
    with FileLock(cache / f"{_key(str(destination.resolve()))}.lock"):
        try:
            for source in sources:
                shutil.rmtree(workspace, ignore_errors=True)
                new = workspace / "new"
                new.mkdir(parents=True)
                try:
                    served = _serve(source, new, cache)
                except SourceError as error:
                    reasons.append(f"{source}: {error}")
                    continue
                if os.path.lexists(destination):
                    destination.rename(workspace / "old")
                new.rename(destination)
                return served
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    failures = " ".join("; ".join(reasons).split())
    raise UserError(
        f"no CIFAR-10 source worked ({failures}): set CIFAR10_SOURCE to a folder or tar.gz you have"
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _serve(source: str, folder: Path, cache: Path) -> str:
    """Write the checked files of one source into `folder`; return what served them.

    Raises SourceError where the next source may do better.
    """
    try:
        url = urlsplit(source)
        path = Path(unquote(url.path) if url.scheme == "file" else source).expanduser()
    except (ValueError, RuntimeError) as error:  # a malformed URL; the home of an unknown user
        raise SourceError(str(error)) from error
    if url.scheme in ("http", "https"):
        with FileLock(cache / "downloads.lock"):  # who waited finds the archive kept
            return _serve_url(source, folder, cache / KEPT, cache / f"{_key(source)}.part")
    archive.unpack(path, folder)
    return source


def _serve_url(url: str, folder: Path, kept: Path, part: Path) -> str:
    """Do the same for a URL, unless the archive `kept` is there and whole."""
    if kept.exists():
        try:
            archive.unpack(kept, folder)
        except SourceError:
            kept.unlink()
        else:
            return str(kept)
    for last in (False, True):
        in_one_piece = download(url, part)
        try:
            archive.unpack(part, folder)
        except SourceError:
            part.unlink()
            # A piece may be of another version, or damaged on this disk: then a whole download decides.
            if in_one_piece or last:
                raise
        else:
            break
    part.replace(kept)
    for other in kept.parent.glob("*.part"):  # of URLs that broke off: no use now
        other.unlink()
    return url
