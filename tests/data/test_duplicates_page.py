"""docs/duplicates.md is what the official images and people's judgements give."""

from pathlib import Path

import pandas as pd
import pytest

from cifar_resnet import files
from cifar_resnet.data import cifar10
from cifar_resnet.data.archive import FOLDER
from cifar_resnet.data.duplicates import DuplicatesConfig
from tools import duplicates
from tools.scratch import ROOT

SAMPLE = slice(0, 10_000, 16)  # of the test images: each is looked for on its own


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> DuplicatesConfig:
    monkeypatch.chdir(ROOT)
    return files.read_params("duplicates", DuplicatesConfig)


def test_the_page_is_made_of_what_was_found(config: DuplicatesConfig) -> None:
    table = pd.read_csv(duplicates.FOUND)
    page = duplicates.render(table, config)
    assert (ROOT / "docs/duplicates.md").read_text() == page, "run `python -m tools.duplicates`"
    assert len(duplicates.missed(table)) <= 0.05 * 249


@pytest.mark.slow
def test_what_was_found_is_in_the_official_images(
    official: Path, config: DuplicatesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "read_raw", lambda name: (official / FOLDER / name).read_bytes())
    train, test = duplicates.read()
    found = duplicates.find(train.images, test.images[SAMPLE], config)
    found["test_index"] *= SAMPLE.step
    expected = pd.read_csv(duplicates.FOUND)
    expected = expected[expected["test_index"] % SAMPLE.step == 0]
    assert len(expected) > 20
    one, other = (table.sort_values("test_index").reset_index(drop=True) for table in (found, expected))
    pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=0, atol=1e-4)
