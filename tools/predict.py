"""Say what pictures show: the most probable classes of each, by the trained network."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from cifar_resnet import files, numerics
from cifar_resnet.data.pictures import UnreadableError, extensions, read
from cifar_resnet.errors import UserError
from cifar_resnet.network import inference
from cifar_resnet.network.classifier import Classifier, read_classifier
from cifar_resnet.process import command
from cifar_resnet.serving import explanation

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
    parser.add_argument("--top", metavar="K", type=int, default=3, help="classes to name (default: 3)")
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


def find(name: str, unreadable: list[str]) -> Iterator[str]:
    """Yield `name` itself, or if it is a folder the pictures in it, sorted, and then those below."""
    if name == "-" or not Path(name).is_dir():
        yield name
        return
    known, count = extensions(), 0
    errors: list[OSError] = []
    for folder, below, inside in os.walk(name, onerror=errors.append):
        below.sort()  # os.walk goes on in this order
        for file in sorted(file for file in inside if Path(file).suffix.lower() in known):
            yield str(Path(folder, file))
            count += 1
    for error in errors:
        _refuse(error.filename, str(error.strerror), unreadable)
    if not count and not errors:
        _refuse(name, "no picture in this folder", unreadable)


def readable(names: list[str], size: int, unreadable: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the path and the image, (3, size, size) uint8, of every picture in files, folders and `-`.

    A path that cannot be read is named on standard error and added to `unreadable`.
    """
    for path in (path for name in names for path in find(name, unreadable)):
        if path != "-" and Path(path).exists() and not Path(path).is_file():
            _refuse(path, "a pipe or a device, no file; - reads standard input", unreadable)
            continue
        try:
            with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
                image = read(file, size)
        except (OSError, UnreadableError) as error:
            _refuse(path, getattr(error, "strerror", None) or str(error), unreadable)
        else:
            yield path, image


def _refuse(path: str, reason: str, unreadable: list[str]) -> None:
    print(command.printable(f"error: {path}: {' '.join(reason.split())}"), file=sys.stderr)
    unreadable.append(path)


def explain(out: Path, classifier: Classifier, images: Tensor, logits: Tensor) -> None:
    """Write the picture of where the network looked."""
    model, normalization, names, _ = classifier
    model.requires_grad_(False)  # spares the memory of gradients below the block that is looked at
    shares, classes = logits.softmax(1).max(1)
    maps = explanation.grad_cam(model, images, normalization, classes)
    best = zip(classes.tolist(), shares.tolist(), strict=True)
    drawing = explanation.figure(images, maps, [f"{names[label]} {share:.0%}" for label, share in best])
    drawing.savefig(out, dpi=150, metadata={"Software": None})


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 when something could not be read."""
    options = parse(words)
    target = numerics.find_device("auto")
    if target.type != "cpu":  # which repeats itself anyway, and PyTorch takes a second to switch
        numerics.set_deterministic(True)
    if options.model.exists() and not options.model.is_file():
        raise UserError(f"{options.model} is no file")
    classifier = read_classifier(options.model, target)
    model, normalization, names, size = classifier
    shown = list(map(command.printable, names))
    unreadable: list[str] = []
    found = readable(options.images, size, unreadable)
    count, path_width, name_width = 0, 0, max(map(len, shown))
    while batch := list(islice(found, BATCH)):
        paths, images = [path for path, _ in batch], torch.stack([image for _, image in batch])
        (logits,) = inference.predict(model, [images], normalization, torch.float32)
        if not logits.isfinite().all():
            raise UserError(f"{options.model} has weights so large that its answers are infinite")
        shares, labels = logits.cpu().softmax(1).topk(min(options.top, len(names)))
        path_width = max(path_width, *map(len, paths))
        for path, *row in zip(paths, labels.tolist(), shares.tolist(), strict=True):
            best = list(zip(*row, strict=True))
            if options.json:
                classes = [{"class": names[label], "probability": round(share, 6)} for label, share in best]
                print(json.dumps({"path": path, "predictions": classes}))
            else:
                columns = [f"{shown[label]:<{name_width}} {share:6.1%}" for label, share in best]
                print("  ".join([f"{command.printable(path):<{path_width}}", *columns]))
        if options.explain and not count:
            explain(options.explain, classifier, images, logits)
        count += len(batch)
    if options.explain and not count:
        print(f"{options.explain} is not written: there is no picture to show", file=sys.stderr)
    if options.explain and count > BATCH:
        print(f"{options.explain} shows the first {BATCH} of {count} pictures", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    with command.one_line():
        sys.exit(main())
