"""Write docs/duplicates.md: how well the near-duplicates are found, measured against people's judgements."""

from pathlib import Path

import jinja2
import pandas as pd
import torch
from torch import Tensor

from cifar_resnet import files
from cifar_resnet.data import cifar10, duplicates, pairs
from cifar_resnet.evaluation.metrics import accuracy_interval
from cifar_resnet.evaluation.subsets import PUBLISHED
from cifar_resnet.images import Images, concatenate
from cifar_resnet.process import command
from tools.scratch import ROOT

JUDGEMENTS = {0: "exact duplicates", 1: "near-duplicates", 2: "very similar, another shot"}
RIGHT = (0, 1)  # the same shot
FOUND = ROOT / "docs/duplicates/found.csv"


def share(hits: int, count: int) -> list[str]:
    """Return hits, count, the share in % and its 95 % interval (Wilson), as text."""
    low, high = accuracy_interval(hits / count, count)
    return [f"{hits}", f"{count}", f"{hits / count:.1%}", f"{low:.1%} to {high:.1%}"]


def recall(found: set[int]) -> pd.DataFrame:
    """Return a row for each kind of judgement on the published list: how many of its images are found."""
    listed = pd.read_csv(PUBLISHED / "cifair10_duplicates.csv")
    rows = []
    for judgement, name in JUDGEMENTS.items():
        of_kind = listed["test_index"][listed["judgment"] == judgement]
        if len(of_kind):
            rows.append([name, *share(len(found.intersection(of_kind)), len(of_kind))])
    return pd.DataFrame(rows, columns=["judged by people as", "found", "of", "share", "95 % interval"])


def precision(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each part of the judged pairs that are found: how many are right.

    `table`: test_index, train_index, mirrored and score of all pairs.
    """
    judged = pd.read_csv(ROOT / "docs/duplicates/judged.csv")[["test_index", "train_index", "judgment"]]
    both = table.merge(judged, on=["test_index", "train_index"])
    right = both["judgment"].isin(RIGHT)
    low = both["mirrored"] | (both["score"] < table["score"].median())
    parts = {"all": low | ~low, "mirrored, or score below the median": low, "the others": ~low}
    rows = [[name, *share(int(right[part].sum()), int(part.sum()))] for name, part in parts.items()]
    return pd.DataFrame(rows, columns=["pairs", "right", "of", "share", "95 % interval"])


def read() -> tuple[Images, Images]:
    """Return the training and the test images of data/raw, in the official order."""
    train = concatenate(cifar10.decode_batch(cifar10.read_raw(name)) for name in cifar10.TRAIN_BATCHES)
    return train, cifar10.decode_batch(cifar10.read_raw(cifar10.TEST_BATCH))


def find(train: Tensor, test: Tensor, config: duplicates.DuplicatesConfig) -> pd.DataFrame:
    """Return a row for each near-duplicate: test_index, train_index, mirrored and score.

    `train`, `test`: (N, 3, 32, 32) uint8, all in the official order.
    """
    torch.set_num_threads(1)
    found = duplicates.find_duplicates(test, train, config)
    table = pd.DataFrame({name: column.numpy() for name, column in found._asdict().items()})
    return table.rename(columns={"test": "test_index", "train": "train_index"})


def missed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the published list that are the same shot and whose test image is not in `table`."""
    listed = pd.read_csv(PUBLISHED / "cifair10_duplicates.csv")
    return listed[listed["judgment"].isin(RIGHT) & ~listed["test_index"].isin(table["test_index"])]


def render(table: pd.DataFrame, config: duplicates.DuplicatesConfig) -> str:
    """Return the page for what `find` gave."""
    page = jinja2.Template(
        Path(__file__).with_name("duplicates.md.jinja").read_text(), keep_trailing_newline=True
    )
    text: str = page.render(
        found=len(table),
        mirrored=int(table["mirrored"].sum()),
        candidates=duplicates.CANDIDATES,
        threshold=config.threshold,
        recall=recall(set(table["test_index"])).to_markdown(index=False),
        precision=precision(table).to_markdown(index=False),
        missed=len(missed(table)),
    )
    return text


def main() -> None:
    """Find, compare, write."""
    with command.one_line():
        config = files.read_params("duplicates", duplicates.DuplicatesConfig)
        train, test = read()
    table = find(train.images, test.images, config)
    files.write_bytes(FOUND, table.to_csv(index=False).encode())
    files.write_bytes(ROOT / "docs/duplicates.md", render(table, config).encode())
    rows = torch.from_numpy(missed(table)[["test_index", "train_index"]].to_numpy(copy=True))
    drawing = pairs.side_by_side(
        test.images[rows[:, 0]],
        train.images[rows[:, 1]],
        [f"{a} / {b}" for a, b in rows.tolist()],
        "Not found",
    )
    drawing.savefig(ROOT / "docs/duplicates/missed.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
