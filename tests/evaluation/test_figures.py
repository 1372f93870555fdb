"""The figures of a trained network."""

import io
import itertools
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from cifar_resnet.data.summary import samples
from cifar_resnet.evaluation import figures
from cifar_resnet.images import Images
from cifar_resnet.serving import explanation
from tests.made_up import png, random_images, shown

CLASSES = ["airplane", "automobile", "bird", "cat"]


def history(epochs: int, best: int) -> pd.DataFrame:
    """Accuracy rises to 0.9 in the epoch `best` and is lower after it."""
    epoch = pd.Series(range(1, epochs + 1))
    losses = {"train_loss": 2 / epoch, "val_loss": 3 / epoch}
    accuracies = {"train_accuracy": 1 - 0.5 / epoch, "val_accuracy": 0.9 - 0.02 * (epoch - best).abs()}
    return pd.DataFrame({"epoch": epoch, **losses, **accuracies, "lr": 0.001})


def probabilities(predicted: list[int], confidence: list[float]) -> Tensor:
    """Rows whose largest entry is `confidence`, at `predicted`."""
    rows = [[(1 - sure) / 3] * 4 for sure in confidence]
    for row, label, sure in zip(rows, predicted, confidence, strict=True):
        row[label] = sure
    return torch.tensor(rows)


LABELS = torch.tensor([0, 1, 2, 3] * 5)
IMAGES = random_images(60).images
TWENTY = Images(IMAGES[:20], LABELS)
SURE = probabilities([1, 0, 3, 2] * 5, [0.9] * 20)
EDGES: dict[str, Callable[[], Figure]] = {
    "samples, a class without images": lambda: samples(Images(IMAGES[:20], LABELS % 3), CLASSES),
    "samples, a long name": lambda: samples(
        Images(IMAGES[:2], LABELS[:2] * 0), ["automobile of any kind"], 1
    ),
    "samples, many classes": lambda: samples(
        Images(IMAGES, torch.arange(60) % 30), [str(i) for i in range(30)]
    ),
    "curves, one epoch": lambda: figures.curves(history(1, 1), 1),
    "confusion": lambda: figures.confusion(torch.tensor([[5, 1, 0, 0]] * 4), CLASSES),
    "mistakes": lambda: figures.mistakes(TWENTY, SURE, CLASSES),
    "mistakes, none": lambda: figures.mistakes(TWENTY, SURE.roll(1, 1)[[1, 0, 3, 2] * 5], CLASSES),
}


@pytest.mark.parametrize("draw", EDGES.values(), ids=EDGES)
def test_every_figure_is_a_png_of_the_same_bytes_each_time_and_whole(draw: Callable[[], Figure]) -> None:
    settings = dict(mpl.rcParams)
    figure = draw()
    first = png(figure)
    with Image.open(io.BytesIO(first)) as picture:
        assert max(picture.size) < 2_200
        assert np.asarray(picture).std() > 1  # something is drawn
    assert png(draw()) == first
    assert not [text for text in (b"Matplotlib", b"tEXt", b"tIME") if text in first]  # no version, no time
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # no text is cut off
    assert 0 <= drawn.x0 <= drawn.x1 <= width + 1e-6
    assert -1e-6 <= drawn.y0 <= drawn.y1 <= height
    assert dict(mpl.rcParams) == settings
    assert not mpl.pyplot.get_fignums()


def test_curves_show_training_and_validation_and_the_kept_epoch() -> None:
    rows = history(8, best=3)
    figure = figures.curves(rows, 5)  # not the best: with all_images the last one is kept
    png(figure)
    for axes, metric in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = {str(line.get_label()): np.asarray(line.get_data()).tolist() for line in axes.get_lines()}
        assert list(lines) == ["training", "validation", "kept: epoch 5"]
        for name, column in (("training", f"train_{metric}"), ("validation", f"val_{metric}")):
            assert lines[name] == [list(range(1, 9)), rows[column].tolist()]
        assert lines["kept: epoch 5"][0] == [5, 5]
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_confusion_shows_each_row_as_percentages_of_the_actual_class() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0], [1, 1, 1, 2497]])
    axes = figures.confusion(matrix, CLASSES).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in ticks] == CLASSES
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    # (column, row); shares below 0.1 % are left out
    assert cells == {(0, 0): "75.0", (1, 0): "25.0", (2, 2): "100.0", (3, 3): "99.9"}
    shares = np.asarray(axes.get_images()[0].get_array())
    np.testing.assert_allclose(shares[:2], np.array([[0.75, 0.25, 0, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize(("classes", "labelled"), [(30, 30), (200, 100)])
def test_the_confusion_of_many_classes_stays_readable(classes: int, labelled: int) -> None:
    names = [f"a class with a long name, number {label}" for label in range(classes)]
    names[0] = "a class with a long!"  # 20 characters: whole
    figure = figures.confusion(torch.eye(classes).long(), names)
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == labelled
    labels = {text.get_text() for text in axes.get_xticklabels()}
    assert labels == {"a class with a long!", "a class with a long…"}
    assert len(axes.texts) == (classes if classes <= figures.NUMBERED else 0)
    png(figure)
    boxes = sorted(
        ((box := text.get_window_extent()).y0, box.y1) for text in axes.texts or axes.get_yticklabels()
    )
    assert all(low[1] <= high[0] + 1 for low, high in itertools.pairwise(boxes))
    assert max(figure.get_size_inches()) <= 24


def test_mistakes_come_by_confidence_with_prediction_and_truth() -> None:
    predicted = probabilities([0, 0, 1, 2, 3], [0.99, 0.5, 0.9, 0.7, 0.6])
    figure = figures.mistakes(Images(IMAGES[:5], torch.tensor([0, 1, 2, 3, 3])), predicted, CLASSES)
    heading = "Most confident errors (3 of 5 test images are wrong): prediction, truth"
    assert figure.get_suptitle() == heading
    titles = ["automobile 90%\nis bird", "bird 70%\nis cat", "airplane 50%\nis automobile"]
    found, pictures = zip(*shown(figure), strict=True)
    assert list(found) == titles
    assert np.array_equal(np.stack(pictures), IMAGES[[2, 3, 1]].permute(0, 2, 3, 1))


def test_the_names_of_classes_are_shown_as_they_are_and_never_read_as_mathematics() -> None:
    names = ["$x^{", "a_b\\frac", "<b>", "猫"]  # the font has no sign for the last
    for figure in (
        samples(TWENTY, names),
        figures.confusion(torch.eye(4).long(), names),
        figures.mistakes(TWENTY, SURE, names),
        explanation.figure(IMAGES[:4], torch.rand(4, 32, 32), names),
    ):
        with pytest.warns(UserWarning, match="Glyph 29483"):
            png(figure)
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert all(any(name in text for text in texts) for name in names)
