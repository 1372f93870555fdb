"""The official files, and a server with stand-ins for them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.mirror import Mirror
from tests.data.stand_ins import HASHES, Place
from tools import scratch

RESTORE = scratch.ROOT.parent / "shared/cifar10/restore.py"


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the official cifar-10-batches-py; tests leave it as it is."""
    if not RESTORE.exists():
        pytest.skip(f"needs the real CIFAR-10, which {RESTORE} rebuilds")
    folder = tmp_path_factory.mktemp("official")
    subprocess.run([sys.executable, str(RESTORE), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def mirror() -> Iterator[Mirror]:
    """A server that runs as long as the tests."""
    with Mirror() as server:
        yield server
        server.shutdown()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins' hashes, no pauses, and no proxy between here and loopback."""
    monkeypatch.setattr("cifar_resnet.data.official.SHA256", HASHES)
    monkeypatch.setattr("cifar_resnet.data.sources.BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")
