"""The pictures in a folder, and what cannot be listed there."""

import os
from pathlib import Path
from typing import Any

import pytest

from cifar_resnet.data.pictures import UnreadableError
from cifar_resnet.serving import pictures


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def locked(path: str) -> Any:
        if Path(path).name == "deeper":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    *found, (path, reason) = pictures.find(str(folder), 32)
    assert len(found) == 4
    assert path == str(folder / "deeper")
    assert isinstance(reason, UnreadableError)
    assert str(reason) == "Permission denied"
