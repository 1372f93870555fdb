"""Images and their labels stay together; titles are cut to their length."""

import torch

from cifar_resnet.images import truncate
from tests.made_up import random_images


def test_images_and_labels_stay_together() -> None:
    whole = random_images(30)
    index = torch.tensor([29, 0, 0, 7])
    images, labels = whole.select(index)
    assert torch.equal(images, whole.images[index])
    assert torch.equal(labels, whole.labels[index])
    assert [tensor.device.type for tensor in whole.to(torch.device("meta"))] == ["meta", "meta"]
    assert whole.channels_last().images.stride() == (3 * 32 * 32, 1, 3 * 32, 3)


def test_each_line_is_cut_to_its_length() -> None:
    for length, expected in ((13, "is automobile\nnot a truck"), (12, "is automobi…\nnot a truck")):
        assert truncate("is automobile\nnot a truck", length) == expected
