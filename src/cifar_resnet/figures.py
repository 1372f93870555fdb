"""Pictures of the data and of a trained network."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

PERCENT = "{:.0%}".format


def _grid(images: Tensor, titles: list[str], columns: int, heading: str) -> Figure:
    """(N, 3, H, W) uint8 images with a title each."""
    rows = -(-len(images) // columns)
    width = 1.35 * images.shape[-1] / images.shape[-2]
    figure = Figure(figsize=(width * columns, 1.65 * rows + 0.5), layout="constrained")
    figure.suptitle(heading)
    for cell in range(rows * columns):
        axes = figure.add_subplot(rows, columns, cell + 1)
        axes.set_axis_off()
        if cell < len(images):
            axes.imshow(images[cell].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(titles[cell], fontsize=8)
    return figure


def samples(images: Tensor, labels: Tensor, class_names: list[str], per_class: int = 8) -> Figure:
    """Show the first images of every class, a row each. `images`: (N, 3, H, W) uint8."""
    figure = Figure(figsize=(per_class + 1.2, len(class_names)), layout="constrained")
    figure.suptitle("Training images")
    axes = figure.subplots(len(class_names), per_class, squeeze=False)
    for label, name in enumerate(class_names):
        members = (labels == label).nonzero().flatten()[:per_class].tolist()
        for column in range(per_class):
            cell = axes[label, column]
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if column < len(members):
                cell.imshow(images[members[column]].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes[label, 0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def curves(history: list[dict[str, float]]) -> Figure:
    """Show loss and accuracy per epoch, training and validation, the kept epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [record["epoch"] for record in history]
    best = max(history, key=lambda record: record["val_accuracy"])
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label in (("train", "training"), ("val", "validation")):
            values = [record[f"{split}_{metric}"] for record in history]
            axes.plot(epochs, values, marker="o" if len(epochs) < 20 else "", markersize=4, label=label)
        axes.axvline(best["epoch"], color="grey", linestyle=":", label=f"kept: epoch {best['epoch']:.0f}")
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
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(class_names))
    axes.set(
        xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="actual", title="Confusion, per actual class"
    )
    axes.set_xticklabels(class_names, rotation=45, ha="right")
    axes.set_yticklabels(class_names)
    for row in ticks:
        for column in ticks:
            share = float(shares[row, column])
            if share >= 0.001:
                colour = "white" if share > 0.5 else "black"
                axes.text(
                    column, row, f"{100 * share:.1f}", ha="center", va="center", color=colour, fontsize=8
                )
    figure.colorbar(image, format=lambda value, _: PERCENT(value), shrink=0.8)
    return figure


def mistakes(
    images: Callable[[Tensor], Tensor],
    labels: Tensor,
    probabilities: Tensor,
    class_names: list[str],
    count: int = 40,
) -> Figure:
    """Show the most confident errors.

    `images`: returns the (K, 3, H, W) uint8 images of (K,) row numbers; `probabilities`: (N, classes).
    """
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    titles = [
        f"{class_names[predicted[i]]} {PERCENT(confidence[i])}\nis {class_names[labels[i]]}"
        for i in worst.tolist()
    ]
    heading = (
        f"Most confident errors ({len(wrong)} of {len(labels)} test images are wrong): prediction, truth"
    )
    return _grid(images(worst), titles, columns=8, heading=heading)


def twins(test: Tensor, train: Tensor, correlation: Tensor, count: int = 40) -> Figure:
    """Show pairs of a test image (left) and the training image that it resembles, the least alike first.

    `test`, `train`: (N, 3, H, W) uint8, pair by pair; `correlation`: (N,).
    """
    order = correlation.argsort(stable=True)[:count]
    gap = torch.full_like(test[order][..., :2], 255)
    pairs = torch.cat([test[order], gap, train[order]], dim=3)
    titles = [f"{value:.2f}" for value in correlation[order]]
    heading = (
        f"Test images beside their near-duplicates in the training data: the {len(order)} least alike of"
        f" {len(correlation)}, with the correlation of their details"
    )
    return _grid(pairs, titles, columns=5, heading=heading)
