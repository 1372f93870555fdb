"""Batch files against torchvision's reader, hostile pickles, and the split against scikit-learn."""

import hashlib
import os
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor
from torchvision.datasets import CIFAR10, cifar

from cifar_resnet.dataset import (
    META,
    TEST_BATCH,
    TRAIN_BATCHES,
    Images,
    PreprocessConfig,
    concatenate,
    decode_batch,
    decode_class_names,
    describe,
    stratified_split,
)
from cifar_resnet.randomness import generator
from cifar_resnet.synthetic import SyntheticConfig, synthetic_files

RESTORE = Path(__file__).parents[2] / "shared/cifar10/restore.py"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BALANCED = torch.arange(50_000) % 10


def decode_all(folder: Path, names: list[str]) -> Images:
    return concatenate(decode_batch((folder / name).read_bytes()) for name in names)


def assert_torchvision_reads_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare all images, labels and class names of ROOT/cifar-10-batches-py."""
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    folder = root / CIFAR10.base_folder
    for train, names in ((True, TRAIN_BATCHES), (False, [TEST_BATCH])):
        theirs, ours = CIFAR10(str(root), train=train), decode_all(folder, names)
        assert torch.equal(ours.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
        assert ours.labels.tolist() == theirs.targets
        assert decode_class_names((folder / META).read_bytes()) == theirs.classes
        assert (ours.images.dtype, ours.labels.dtype) == (torch.uint8, torch.int64)


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official cifar-10-batches-py."""
    if not RESTORE.exists():
        pytest.skip(f"needs the real CIFAR-10, which {RESTORE} rebuilds")
    root = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(RESTORE), str(root)], check=True, capture_output=True)
    return root


def test_torchvision_reads_the_same_from_synthetic_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, content in synthetic_files(SyntheticConfig(train_images=250, test_images=20, seed=0)).items():
        (folder / name).write_bytes(content)
    assert_torchvision_reads_the_same(tmp_path, monkeypatch)


def test_torchvision_reads_the_same_from_the_official_files(
    cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_torchvision_reads_the_same(cifar10, monkeypatch)


def test_the_official_files_hold_what_is_known_of_cifar10(cifar10: Path) -> None:
    folder = cifar10 / CIFAR10.base_folder
    train, test = decode_all(folder, TRAIN_BATCHES), decode_all(folder, [TEST_BATCH])
    names = decode_class_names((folder / META).read_bytes())
    assert names == CLASSES
    facts = describe({"train": train, "test": test}, names)
    assert facts["images"] == {"train": 50_000, "test": 10_000}
    assert facts["images_per_class"] == {"train": [5_000] * 10, "test": [1_000] * 10}
    assert facts["channel_mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert facts["channel_std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    pixels = train.images.numpy()
    for channel in range(3):
        values = pixels[:, channel].astype(np.float32) / 255
        assert values.mean(dtype=np.float64) == pytest.approx(facts["channel_mean"][channel], abs=1e-6)
        assert values.std(dtype=np.float64) == pytest.approx(facts["channel_std"][channel], abs=1e-6)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pixels_are_planes_of_red_green_blue_in_row_order(protocol: int) -> None:
    data = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
    images, labels = decode_batch(pickle.dumps({"data": data, "labels": [3, 9]}, protocol=protocol))
    assert images[1, 2, 5, 7] == data[1, 2 * 1024 + 5 * 32 + 7]
    assert labels.tolist() == [3, 9]


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


def test_decoded_images_can_be_written_to() -> None:
    content = pickle.dumps({"data": np.ones((1, 3072), np.uint8), "labels": [0]}, protocol=4)
    images = decode_batch(content).images
    images += 1
    assert bool((images == 2).all())


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Name:
    """Pickles as a look-up of MODULE.NAME, which imports the module."""

    def __init__(self, module: str, name: str) -> None:
        self.content = f"c{module}\n{name}\n.".encode()


HOSTILE = {
    "os.system": Call(os.system, "touch hostile"),
    "eval": Call(eval, "open('hostile', 'w')"),
    "exec": Call(exec, "open('hostile', 'w')"),
    "getattr": Call(getattr, "", "join"),
    "Path.touch": Call(Path.touch, Path("hostile")),
    "numpy.save": Call(np.save, "hostile", [1]),
    "numpy.fromfile": Call(np.fromfile, "/etc/hostname", "u1"),
    "numpy.testing": Call(np.testing.rundocs, "/etc/hostname"),
    "numpy.load": Call(np.load, "/etc/hostname"),
    "_codecs.encode": Name("_codecs", "encode"),
    "a module that acts when imported": Name("numpy.f2py.__main__", "dtype"),
    "another submodule": Name("numpy.ma.core", "ndarray"),
    "no module at all": Name("numpy.nothing", "ndarray"),
    "a path to a function": Name("numpy", "testing.rundocs"),
    "a path that ends well": Name("numpy", "ma.core.ndarray"),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("decode", [decode_batch, decode_class_names])
def test_hostile_files_are_refused_before_they_act(
    hostile: Call | Name, decode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["f2py", "-v"])
    modules = set(sys.modules)
    contents = (
        [hostile.content] if isinstance(hostile, Name) else [pickle.dumps(hostile, p) for p in (0, 2, 4, 5)]
    )
    for content in contents:
        with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
            decode(content)
    assert not list(tmp_path.iterdir())
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    "data",
    [
        Call(np.ndarray, (1, 3072), "u1"),  # uninitialized memory
        np.ones((1, 3072), np.uint16),
        np.ones((2, 3072), np.uint8),
        np.ones((1, 3071), np.uint8),
        np.array([[None] * 3072]),
    ],
    ids=["ndarray()", "uint16", "two images", "too short", "objects"],
)
def test_anything_but_a_row_of_3072_bytes_per_label_is_refused(data: Any) -> None:
    """A file that may call `ndarray` may also make objects out of its own bytes: a crash, or worse."""
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        decode_batch(pickle.dumps({"data": data, "labels": [1]}, protocol=4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"<html>",
        pickle.dumps([1]),
        pickle.dumps({}),
        pickle.dumps({"data": b"", "labels": 1}),
    ],
    ids=["empty", "zeros", "text", "list", "no entries", "other entries"],
)
def test_garbage_is_refused(content: bytes) -> None:
    """Checked files alone are decoded, so the exception may be any."""
    with pytest.raises(
        (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError)
    ):
        decode_batch(content)


def test_a_truncated_file_is_refused() -> None:
    files = synthetic_files(SyntheticConfig(train_images=50, test_images=10, seed=0))
    content = files["test_batch"]
    for length in (1, len(content) // 2, len(content) - 1):
        with pytest.raises((pickle.UnpicklingError, EOFError)):
            decode_batch(content[:length])


def random_images(count: int, classes: int = 10, seed: int = 0) -> Images:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    images[:, 2] //= 3  # channels that differ
    return Images(images, torch.randint(classes, (count,), generator=random))


def test_concatenation_keeps_the_order() -> None:
    whole = random_images(30)
    parts = [Images(*(tensor[start : start + 10] for tensor in whole)) for start in (0, 10, 20)]
    joined = concatenate(parts)
    assert torch.equal(joined.images, whole.images)
    assert torch.equal(joined.labels, whole.labels)


def test_rows_keep_images_and_labels_together() -> None:
    whole = random_images(30)
    index = torch.tensor([29, 0, 0, 7])
    images, labels = whole.rows(index)
    for position, row in enumerate(index.tolist()):
        assert torch.equal(images[position], whole.images[row])
        assert labels[position] == whole.labels[row]


def test_description_equals_numpys() -> None:
    splits = {"train": random_images(200, 5), "val": random_images(50, 7, seed=1), "test": random_images(1)}
    facts = describe(splits, CLASSES)
    pixels = splits["train"].images.numpy() / 255
    np.testing.assert_allclose(facts["channel_mean"], pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(facts["channel_std"], pixels.std((0, 2, 3)), rtol=1e-10)
    assert facts["classes"] == CLASSES
    assert facts["images"] == {"train": 200, "val": 50, "test": 1}
    for split, data in splits.items():
        labels = data.labels.tolist()
        assert facts["images_per_class"][split] == [labels.count(label) for label in range(10)]


def counts(labels: Tensor, index: Tensor, classes: int = 10) -> list[int]:
    return labels[index].bincount(minlength=classes).tolist()


def test_the_split_takes_the_same_number_of_every_balanced_class_as_scikit_learn() -> None:
    train, val = stratified_split(BALANCED, 5_000, generator(0, "split"))
    assert counts(BALANCED, train) == [4_500] * 10
    assert counts(BALANCED, val) == [500] * 10
    sklearn_split = StratifiedShuffleSplit(n_splits=1, test_size=5_000, random_state=0)
    _, theirs = next(sklearn_split.split(np.zeros(50_000), BALANCED.numpy()))
    assert counts(BALANCED, torch.from_numpy(theirs)) == counts(BALANCED, val)


def test_the_split_takes_scikit_learns_shares_of_uneven_classes() -> None:
    labels = torch.tensor([0] * 17 + [1] * 301 + [2] * 88 + [3] * 54)[torch.randperm(460)]
    sklearn_split = StratifiedShuffleSplit(n_splits=1, test_size=101, random_state=0)
    _, theirs = next(sklearn_split.split(np.zeros(460), labels.numpy()))
    _, val = stratified_split(labels, 101, generator(0, "split"))
    assert counts(labels, val, 4) == counts(labels, torch.from_numpy(theirs), 4)


@given(st.lists(st.integers(2, 60), min_size=2, max_size=8), st.data())
def test_the_split_is_stratified_complete_disjoint_and_sorted(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    count = data.draw(st.integers(len(sizes), total - len(sizes)))
    shares = [Fraction(size * count, total) for size in sizes]
    assume(all(1 <= share <= size - 1 for share, size in zip(shares, sizes, strict=True)))
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(total, generator=torch.Generator().manual_seed(0))]
    train, val = stratified_split(labels, count, generator(0, "split"))
    assert len(val) == count
    for index in (train, val):
        assert torch.equal(index, index.sort().values)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(total))
    quotas = counts(labels, val, len(sizes))
    assert all(abs(quota - share) < 1 for quota, share in zip(quotas, shares, strict=True))
    up = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota > share]
    down = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota < share]
    assert not up or not down or min(up) >= max(down)


def test_the_split_of_a_seed_never_changes() -> None:
    """Published accuracies rest on these images."""
    train, val = stratified_split(BALANCED, 5_000, generator(0, "split"))
    digests = [hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest() for index in (train, val)]
    assert digests == [
        "7dacf4efeb7c4f2210a187532c4f51b8998be1931343385bf1db3dcbdade2c87",
        "540093b8443f68dc43f0cb4c42a6e6311800c948ae19f5624d056c6f60b64f95",
    ]


def test_another_seed_gives_another_split() -> None:
    splits = [stratified_split(BALANCED, 5_000, generator(seed, "split"))[1] for seed in range(4)]
    for i, one in enumerate(splits):
        for other in splits[:i]:
            common = len(set(one.tolist()) & set(other.tolist()))
            assert 400 < common < 600  # 500 by chance


def test_every_image_is_as_likely_to_be_chosen() -> None:
    labels = torch.arange(100) % 2
    chosen = torch.zeros(100)
    for seed in range(400):
        chosen[stratified_split(labels, 20, generator(seed, "split"))[1]] += 1
    assert chosen.sum() == 400 * 20
    assert (chosen - 80).abs().max() < 5 * 8  # binomial: mean 80, standard deviation 8


def test_the_split_depends_on_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = stratified_split(BALANCED, 5_000, generator(0, "split"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    again = stratified_split(BALANCED, 5_000, generator(0, "split"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("count", [1, 9, 49_991, 50_000, 60_000])
def test_a_split_that_leaves_a_class_empty_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"validation_images {count} .* at least 10 .* 50000") as caught:
        stratified_split(BALANCED, count, generator(0, "split"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [10, 49_990])
def test_the_smallest_and_the_largest_split_leave_one_image_of_a_class(count: int) -> None:
    train, val = stratified_split(BALANCED, count, generator(0, "split"))
    assert counts(BALANCED, min(train, val, key=len)) == [1] * 10


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="leaves a class empty"):
        stratified_split(torch.tensor([0] * 50 + [1]), 10, generator(0, "split"))


@pytest.mark.parametrize(
    "wrong",
    [{"validation_images": 0}, {"validation_images": 0.1}, {"seed": -1}, {"test_images": 1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PreprocessConfig.model_validate({"validation_images": 5_000, "seed": 0} | wrong)
