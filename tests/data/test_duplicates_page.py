"""docs/duplicates.md is what the official images and people's judgements give."""

from pathlib import Path

import pytest

from cifar_resnet.data import cifar10
from cifar_resnet.data.archive import FOLDER
from tools import duplicates
from tools.scratch import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_is_made_of_the_official_images(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cifar10, "read_raw", lambda name: (official / FOLDER / name).read_bytes())
    train, test = duplicates.read()
    text, missed = duplicates.render(train.images, test.images)
    assert (ROOT / "docs/duplicates.md").read_text() == text, "run `python -m tools.duplicates`"
    assert len(missed) <= 0.05 * 249
