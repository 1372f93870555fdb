"""docs/duplicates.md is what the official images and people's judgements give."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

from cifar_resnet import params
from cifar_resnet.data import cifar10, duplicates
from cifar_resnet.data.official import FOLDER
from cifar_resnet.evaluation.subsets import PUBLISHED
from cifar_resnet.images import concatenate
from tools.scratch import ROOT

PAGE = (ROOT / "docs/duplicates.md").read_text()
FOUND = pd.read_csv(ROOT / "docs/duplicates/found.csv")
KEY = ["test_index", "train_index"]
SAME_SHOT = (0, 1)  # judgements: an exact duplicate, a near-duplicate; 2 is another shot, very similar
SAMPLE = slice(0, 10_000, 16)  # of the test images: each is looked for on its own


def line(name: str, hits: "pd.Series[bool]") -> str:
    """A row of the page: how many of `hits` are true, and Wilson's interval of their share."""
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, "wilson")
    cells = [name, hits.sum(), len(hits), f"{hits.mean():.1%}", f"{interval.low:.1%} to {interval.high:.1%}"]
    return f"| {' | '.join(map(str, cells))} |"


def tables() -> list[list[str]]:
    """The rows of each table of the page, without heads."""
    blocks = [block.splitlines() for block in PAGE.split("\n\n")]
    return [block[2:] for block in blocks if block[0].startswith("|")]


def test_the_tables_follow_from_the_pairs_and_the_judgements() -> None:
    listed = pd.read_csv(PUBLISHED / "cifair10_duplicates.csv")
    found = listed["test_index"].isin(FOUND["test_index"])
    kinds = {"near-duplicates": 1, "very similar, another shot": 2}
    assert set(listed["judgment"]) == set(kinds.values())
    recall = [line(name, found[listed["judgment"] == judgement]) for name, judgement in kinds.items()]
    judged = FOUND.merge(pd.read_csv(ROOT / "docs/duplicates/judged.csv")[[*KEY, "judgment"]], on=KEY)
    right = judged["judgment"].isin(SAME_SHOT)
    low = judged["mirrored"] | (judged["score"] < FOUND["score"].median())
    parts = {"all": low | ~low, "mirrored, or score below the median": low, "the others": ~low}
    precision = [line(name, right[part]) for name, part in parts.items()]
    assert tables() == [recall, precision]


def test_the_page_says_how_many_were_found_and_missed() -> None:
    listed = pd.read_csv(PUBLISHED / "cifair10_duplicates.csv")
    missed = (listed["judgment"].isin(SAME_SHOT) & ~listed["test_index"].isin(FOUND["test_index"])).sum()
    assert f"finds {len(FOUND)} of the 10,000 test images" in PAGE
    assert f"\n{missed} near-duplicates of the list" in PAGE
    assert missed <= 0.05 * 249


@pytest.mark.slow
def test_what_was_found_is_in_the_official_images(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = params.read("duplicates", duplicates.DuplicatesConfig)
    monkeypatch.setattr(cifar10, "read_raw", lambda name: (official / FOLDER / name).read_bytes())
    train = concatenate(cifar10.decode_batch(cifar10.read_raw(name)) for name in cifar10.TRAIN_BATCHES)
    test = cifar10.decode_batch(cifar10.read_raw(cifar10.TEST_BATCH))
    torch.set_num_threads(1)
    pairs = duplicates.find_duplicates(test.images[SAMPLE], train.images, config)
    found = pd.DataFrame({name: column.numpy() for name, column in pairs._asdict().items()})
    found = found.rename(columns={"test": "test_index", "train": "train_index"})
    found["test_index"] *= SAMPLE.step
    expected = FOUND[FOUND["test_index"] % SAMPLE.step == 0]
    assert len(expected) > 20
    one, other = (table.sort_values("test_index").reset_index(drop=True) for table in (found, expected))
    pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=0, atol=1e-4)
