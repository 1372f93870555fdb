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
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor

from cifar_resnet.data.describe import samples
from cifar_resnet.evaluation import figures
from cifar_resnet.images import Images

CLASSES = ["airplane", "automobile", "bird", "cat"]


def png(figure: Figure) -> bytes:
    """As `cifar_resnet.files.write_figure` writes it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def texts(figure: Figure) -> list[str]:
    """Every text that is shown and not empty: heading, titles, labels, ticks, legends and annotations."""
    png(figure)
    found = [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()]
    return [text for text in found if text]


def pictures(figure: Figure) -> list[AxesImage]:
    return [image for axes in figure.axes for image in axes.get_images()]


def random_images(count: int) -> Tensor:
    shape = (count, 3, 32, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def history(epochs: int, best: int) -> pd.DataFrame:
    """Accuracy rises to 0.9 in the epoch `best` and is lower after it."""
    epoch = pd.Series(range(1, epochs + 1))
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "val_loss": 3 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_accuracy": 0.9 - 0.02 * (epoch - best).abs(),
            "lr": 0.001,
        }
    )


def probabilities(predicted: list[int], confidence: list[float]) -> Tensor:
    """Rows whose largest entry is `confidence`, at `predicted`."""
    rows = [[(1 - sure) / 3] * 4 for sure in confidence]
    for row, label, sure in zip(rows, predicted, confidence, strict=True):
        row[label] = sure
    return torch.tensor(rows)


LABELS = torch.tensor([0, 1, 2, 3] * 5)
EDGES: dict[str, Callable[[], Figure]] = {
    "samples, a class without images": lambda: samples(Images(random_images(20), LABELS % 3), CLASSES),
    "samples, one class": lambda: samples(Images(random_images(2), LABELS[:2] * 0), CLASSES[:1], 1),
    "curves, one epoch": lambda: figures.curves(history(1, 1)),
    "confusion": lambda: figures.confusion(torch.tensor([[5, 1, 0, 0]] * 4), CLASSES),
    "mistakes": lambda: figures.mistakes(
        Images(random_images(20), LABELS), probabilities([0] * 20, [0.9] * 20), CLASSES
    ),
    "mistakes, none": lambda: figures.mistakes(
        Images(random_images(4), LABELS[:4]), probabilities([0, 1, 2, 3], [0.9] * 4), CLASSES
    ),
}


@pytest.mark.parametrize("draw", EDGES.values(), ids=EDGES)
def test_every_figure_is_a_png_of_the_same_bytes_each_time_and_whole(draw: Callable[[], Figure]) -> None:
    figure = draw()
    first = png(figure)
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.format == "PNG"
        assert max(picture.size) < 2_000
        assert np.asarray(picture).std() > 1  # something is drawn
    assert png(draw()) == first
    for text in (b"Matplotlib", b"tEXt", b"tIME"):  # neither version nor time
        assert text not in first
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # no text is cut off
    assert 0 <= drawn.x0 <= drawn.x1 <= width
    assert 0 <= drawn.y0 <= drawn.y1 <= height


def test_drawing_leaves_matplotlibs_global_state_alone() -> None:
    before = dict(mpl.rcParams)
    for draw in EDGES.values():
        draw()
    assert dict(mpl.rcParams) == before
    assert not mpl.pyplot.get_fignums()


def test_curves_show_training_and_validation_and_the_kept_epoch() -> None:
    rows = history(8, best=5)
    figure = figures.curves(rows)
    for axes, metric in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines) == ["training", "validation", "kept: epoch 5"]
        assert np.asarray(lines["training"].get_xdata()).tolist() == list(range(1, 9))
        assert np.asarray(lines["training"].get_ydata()).tolist() == rows[f"train_{metric}"].tolist()
        assert np.asarray(lines["validation"].get_ydata()).tolist() == rows[f"val_{metric}"].tolist()
        assert np.asarray(lines["kept: epoch 5"].get_xdata()).tolist() == [5, 5]


def test_the_kept_epoch_is_the_first_of_equals() -> None:
    rows = history(4, best=1).assign(val_accuracy=0.5)
    assert "kept: epoch 1" in texts(figures.curves(rows))


def test_epochs_are_whole_numbers_on_the_axis() -> None:
    figure = figures.curves(history(2, 1))
    png(figure)
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_confusion_shows_each_row_as_percentages_of_the_actual_class() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0], [1, 1, 1, 2497]])
    figure = figures.confusion(matrix, CLASSES)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in ticks] == CLASSES
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    # (column, row); shares below 0.1 % are left out
    assert cells == {(0, 0): "75.0", (1, 0): "25.0", (2, 2): "100.0", (3, 3): "99.9"}
    shown = np.asarray(axes.get_images()[0].get_array())
    np.testing.assert_allclose(shown[0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(shown[1], 0)


@pytest.mark.parametrize(("classes", "labelled"), [(30, 30), (200, 100)])
def test_the_confusion_of_many_classes_stays_readable(classes: int, labelled: int) -> None:
    names = [f"a class with a long name, number {label}" for label in range(classes)]
    figure = figures.confusion(torch.eye(classes).long(), names)
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == labelled
    assert max(len(text.get_text()) for text in axes.get_xticklabels()) <= 20
    assert len(axes.texts) == (classes if classes <= figures.NUMBERED else 0)
    png(figure)
    boxes = [text.get_window_extent() for text in axes.texts or axes.get_yticklabels()]
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert max(figure.get_size_inches()) <= 24


def test_mistakes_come_by_confidence_with_prediction_and_truth() -> None:
    images = random_images(5)
    labels = torch.tensor([0, 1, 2, 3, 3])
    predicted = probabilities([0, 0, 1, 2, 3], [0.99, 0.5, 0.9, 0.7, 0.6])
    figure = figures.mistakes(Images(images, labels), predicted, CLASSES)
    heading = "Most confident errors (3 of 5 test images are wrong): prediction, truth"
    assert heading in texts(figure)
    titles = [axes.get_title() for axes in figure.axes if axes.get_images()]
    assert titles == ["automobile 90%\nis bird", "bird 70%\nis cat", "airplane 50%\nis automobile"]
    for picture, row in zip(pictures(figure), (2, 3, 1), strict=True):
        assert np.array_equal(np.asarray(picture.get_array()), images[row].permute(1, 2, 0).numpy())


def test_at_most_forty_mistakes_are_shown() -> None:
    labels = torch.ones(60, dtype=torch.int64)
    confidence = [0.5 + i / 200 for i in range(60)]
    figure = figures.mistakes(Images(random_images(60), labels), probabilities([0] * 60, confidence), CLASSES)
    assert len(pictures(figure)) == 40
    assert any("60 of 60" in text for text in texts(figure))


def test_the_doubted_labels_come_first() -> None:
    images, labels = random_images(3), torch.tensor([0, 1, 2])
    figure = figures.doubted(Images(images, labels), probabilities([0, 2, 3], [0.9, 0.7, 0.97]), CLASSES)
    titles = [axes.get_title() for axes in figure.axes if axes.get_images()]
    assert titles == ["bird?\nrather cat", "automobile?\nrather bird", "airplane?\nrather airplane"]
    for picture, row in zip(pictures(figure), (2, 1, 0), strict=True):
        assert np.array_equal(np.asarray(picture.get_array()), images[row].permute(1, 2, 0).numpy())
