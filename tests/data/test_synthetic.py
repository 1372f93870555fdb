"""The made-up data set: its bytes, its balance and its shapes."""

import numpy as np
import torch

from cifar_resnet.data.cifar10 import decode_batch
from cifar_resnet.data.synthetic import SHAPES, SyntheticConfig, masks, synthetic_files

SMALL = SyntheticConfig(train_images=250, test_images=20, seed=0)
TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


def test_same_settings_give_the_same_bytes() -> None:
    assert synthetic_files(SMALL) == synthetic_files(SMALL)


def test_another_seed_gives_other_images_in_every_file_but_the_same_names() -> None:
    first, other = synthetic_files(SMALL), synthetic_files(SMALL.model_copy(update={"seed": 1}))
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == ["batches.meta"]


def test_every_file_has_ten_balanced_classes_in_random_order() -> None:
    for name, content in synthetic_files(SMALL).items():
        if name != "batches.meta":
            labels = decode_batch(content).labels
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
