"""Say what pictures show: the most probable classes of each, by the trained network."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from cifar_resnet import files
from cifar_resnet.data.pictures import UnreadableError
from cifar_resnet.files.params import UserError
from cifar_resnet.network import device, inference
from cifar_resnet.network.classifier import Classifier, read_classifier
from cifar_resnet.serving import explanation, pictures

BATCH = 64  # pictures in memory at a time; --explain shows the first batch


def parse(words: list[str] | None) -> argparse.Namespace:
    """Return the options on the command line. Exits with status 2 when they are wrong."""
    parser = argparse.ArgumentParser("python -m tools.predict", description=__doc__)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a file of any size and format that Pillow reads; a folder: all pictures in it and below;"
        " -: a picture's bytes on standard input",
    )
    parser.add_argument(
        "--model", metavar="PATH", type=Path, default=files.MODEL, help=f"default: {files.MODEL}"
    )
    parser.add_argument(
        "--top", metavar="K", type=int, default=3, help="how many classes to name (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines, an object per picture")
    parser.add_argument(
        "--explain",
        metavar="OUT.png",
        type=Path,
        help=f"draw where the network looked (Grad-CAM) in the first {BATCH} pictures",
    )
    options = parser.parse_args(words)
    if options.top < 1:
        parser.error(f"--top must be at least 1 (it is {options.top})")
    if out := options.explain:
        if out.suffix.lower() != ".png" or out.resolve() in {Path(name).resolve() for name in options.images}:
            parser.error(f"--explain writes a .png file, none of the IMAGEs (it is {out})")
        if not out.parent.is_dir():
            parser.error(f"--explain {out}: there is no folder {out.parent}")
    return options


def load(path: Path) -> Classifier:
    """Return the classifier on the best device. Raises UserError or OSError when it cannot be read."""
    target = device.select_device("auto")
    if target.type != "cpu":  # which repeats itself anyway, and PyTorch takes a second to switch
        device.make_deterministic(True)
    return read_classifier(path, target)


def readable(names: list[str], size: int, unreadable: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the path and the image, (3, size, size) uint8, of every picture in files, folders and `-`.

    A path that cannot be read is named on standard error and added to `unreadable`.
    """
    for name in names:
        for path, picture in pictures.find(name, size):
            if isinstance(picture, UnreadableError):
                print(f"error: {path}: {' '.join(str(picture).split())}", file=sys.stderr)
                unreadable.append(path)
            else:
                yield path, picture


def explain(out: Path, classifier: Classifier, images: Tensor, logits: Tensor) -> None:
    """Write the picture of where the network looked."""
    model, normalization, names, _ = classifier
    model.requires_grad_(False)  # spares the memory of gradients below the block that is looked at
    shares, classes = logits.softmax(1).max(1)
    maps = explanation.grad_cam(model, images, normalization, classes)
    best = zip(classes.tolist(), shares.tolist(), strict=True)
    drawing = explanation.figure(images, maps, [f"{names[label]} {share:.0%}" for label, share in best])
    drawing.savefig(out, dpi=150, metadata={"Software": None})


def row(path: str, best: list[tuple[str, float]], path_width: int, name_width: int) -> str:
    """Return a path and the probabilities of its best classes in columns."""
    columns = [f"{name:<{name_width}} {share:6.1%}" for name, share in best]
    return "  ".join([f"{path:<{path_width}}", *columns])


def json_line(path: str, best: list[tuple[str, float]]) -> str:
    """Return the same as a JSON object in one line."""
    predictions = [{"class": name, "probability": round(share, 6)} for name, share in best]
    return json.dumps({"path": path, "predictions": predictions})


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 when something could not be read."""
    options = parse(words)
    classifier = load(options.model)
    model, normalization, names, size = classifier
    unreadable: list[str] = []
    found = readable(options.images, size, unreadable)
    count, path_width, name_width = 0, 0, max(map(len, names))
    while batch := list(islice(found, BATCH)):
        paths, images = [path for path, _ in batch], torch.stack([image for _, image in batch])
        (logits,) = inference.predict(model, [images], normalization, torch.float32)
        shares, classes = logits.cpu().softmax(1).topk(min(options.top, len(names)))
        path_width = max(path_width, *map(len, paths))
        for path, labels, values in zip(paths, classes.tolist(), shares.tolist(), strict=True):
            best = [(names[label], share) for label, share in zip(labels, values, strict=True)]
            print(json_line(path, best) if options.json else row(path, best, path_width, name_width))
        sys.stdout.flush()
        if options.explain and not count:
            explain(options.explain, classifier, images, logits)
        count += len(batch)
    if options.explain and not count:
        print(f"{options.explain} is not written: there is no picture to show", file=sys.stderr)
    if options.explain and count > BATCH:
        print(f"{options.explain} shows the first {BATCH} of {count} pictures", file=sys.stderr)
    return 1 if unreadable else 0


def run() -> NoReturn:
    """Run the command as a process of its own: one line for what a user can put right, exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in its encoding
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
