"""Batch files, official and made up, against torchvision's reader; hostile pickles."""

import itertools
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, cifar

from cifar_resnet.data.cifar10 import META, TEST_BATCH, TRAIN_BATCHES, decode_batch, decode_class_names
from cifar_resnet.data.sources import fetch_cifar10
from cifar_resnet.data.summary import channel_statistics
from cifar_resnet.data.synthetic import SHAPES, SyntheticConfig, masks, synthetic_files
from cifar_resnet.images import concatenate

SMALL = SyntheticConfig(train_images=250, test_images=20, seed=0)


def assert_torchvision_reads_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare all images, labels and class names of ROOT/cifar-10-batches-py."""
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    folder = root / CIFAR10.base_folder
    for train, names in ((True, TRAIN_BATCHES), (False, [TEST_BATCH])):
        theirs = CIFAR10(str(root), train=train)
        ours = concatenate(decode_batch((folder / name).read_bytes()) for name in names)
        assert torch.equal(ours.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
        assert ours.labels.tolist() == theirs.targets
        assert decode_class_names((folder / META).read_bytes()) == theirs.classes
        assert (ours.images.dtype, ours.labels.dtype) == (torch.uint8, torch.int64)


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, content in synthetic_files(SMALL).items():
        (folder / name).write_bytes(content)
    assert_torchvision_reads_the_same(tmp_path, monkeypatch)


def test_official_files_hold_what_is_known(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / CIFAR10.base_folder
    fetch_cifar10([str(official)], folder, tmp_path / "cache")
    assert_torchvision_reads_the_same(tmp_path, monkeypatch)
    train = concatenate(decode_batch((folder / name).read_bytes()) for name in TRAIN_BATCHES)
    assert train.labels.bincount().tolist() == [5_000] * 10
    assert decode_batch((folder / TEST_BATCH).read_bytes()).labels.bincount().tolist() == [1_000] * 10
    channels = channel_statistics(train.images)
    assert channels["mean"].tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert channels["std"].tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


def test_python_2s_text_is_read() -> None:
    """The official files' arrays hold their bytes in a `str` of Python 2."""
    data = bytes(range(256)) * 12
    content = (
        b"\x80\x02}(U\x06labels]K\x07aU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + data + b"tbu."
    )
    images, labels = decode_batch(content)
    assert bytes(images.flatten().tolist()) == data
    assert labels.tolist() == [7]


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


CALLS = [Call(eval, "open('hostile', 'w')"), Call(getattr, "", "join"), Call(np.save, "hostile", [1])]
HOSTILE = {
    **{call.call[0].__name__: [pickle.dumps(call, protocol) for protocol in (0, 4)] for call in CALLS},
    "a module that acts when imported": [b"cnumpy.f2py.__main__\ndtype\n."],
    "a path to a function": [b"cnumpy\ntesting.rundocs\n."],
    "a path that ends well": [b"cnumpy\nma.core.ndarray\n."],
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_never_act(
    hostile: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["f2py", "-v"])
    modules = set(sys.modules)
    for content, decode in itertools.product(hostile, (decode_batch, decode_class_names)):
        with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
            decode(content)
    assert not list(tmp_path.iterdir())
    assert set(sys.modules) == modules


def test_a_seed_gives_the_same_bytes_of_balanced_classes_and_another_one_other_images() -> None:
    first, other = synthetic_files(SMALL), synthetic_files(SMALL.model_copy(update={"seed": 1}))
    assert synthetic_files(SMALL) == first
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == ["batches.meta"]
    for name in first.keys() - {"batches.meta"}:
        labels = decode_batch(first[name]).labels
        assert labels.bincount().tolist() == [len(labels) // 10] * 10
        assert not torch.equal(labels, torch.arange(len(labels)) % 10)


def test_shapes_differ_from_each_other_at_any_size() -> None:
    assert len(set(SHAPES)) == 10
    for radius in (7.0, 9.0, 12.0):
        drawn = masks(np.arange(10), np.full((10, 2), 16.0), np.full(10, radius))
        assert drawn.shape == (10, 32, 32)
        for label, mask in enumerate(drawn):
            for other in drawn[:label]:
                assert (mask ^ other).sum() > 0.12 * (2 * radius) ** 2
