"""Figures of a trained network: its curves, its confusions, its mistakes."""

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from cifar_resnet.images import Images, image_grid, truncate

PERCENT = "{:.0%}".format
NUMBERED = 38  # classes up to which the cells of the confusion hold numbers: they would overlap
LABELLED = 120  # names that fit along a side of it


def curves(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Show loss and accuracy per epoch, training and validation.

    `history`: a row per epoch, as `train` writes it; `best_epoch`: the one that was kept, which is marked.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = history["epoch"]
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label in (("train", "training"), ("val", "validation")):
            values = history[f"{split}_{metric}"]
            axes.plot(epochs, values, marker="o" if len(epochs) < 20 else "", markersize=4, label=label)
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", title=f"{metric.capitalize()} per epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
        if metric == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    return figure


def confusion(matrix: Tensor, class_names: list[str]) -> Figure:
    """Show each actual class's predictions as shares. `matrix`: (classes, classes) counts, rows actual."""
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    count = len(class_names)
    scale = min(max(1.0, count / 12), 3.2)  # the side of a cell stays, up to 24 inches
    figure = Figure(figsize=(7.5 * scale, 6.5 * scale), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(0, count, -(-count // LABELLED))  # all of them, or every second, third ...
    axes.set(
        xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="actual", title="Confusion, per actual class"
    )
    names = [truncate(class_names[label]) for label in ticks]
    rotation, side = (45, "right") if count <= 40 else (90, "center")
    axes.set_xticklabels(names, parse_math=False, rotation=rotation, ha=side)
    axes.set_yticklabels(names, parse_math=False)
    for row, column in (shares >= 0.001).nonzero().tolist() if count <= NUMBERED else []:
        share = float(shares[row, column])
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, format=lambda value, _: PERCENT(value), shrink=0.8)
    return figure


def mistakes(test: Images, probabilities: Tensor, class_names: list[str], count: int = 40) -> Figure:
    """Show the most confident errors. `probabilities`: (N, classes) of the test images."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != test.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    titles = [
        f"{class_names[predicted[i]]} {PERCENT(confidence[i])}\nis {class_names[test.labels[i]]}"
        for i in worst.tolist()
    ]
    heading = (
        f"Most confident errors ({len(wrong)} of {len(test.labels)} test images are wrong): prediction, truth"
    )
    return image_grid(test.images[worst], titles, columns=8, heading=heading)
