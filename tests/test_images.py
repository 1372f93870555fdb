"""Images and their labels stay together, and small pictures are shown under their titles."""

import torch

from cifar_resnet.images import image_grid, truncate
from tests.made_up import assert_shows, random_images, shown


def test_images_and_labels_stay_together() -> None:
    whole = random_images(30)
    index = torch.tensor([29, 0, 0, 7])
    images, labels = whole.select(index)
    assert torch.equal(images, whole.images[index])
    assert torch.equal(labels, whole.labels[index])
    assert [tensor.device.type for tensor in whole.to(torch.device("meta"))] == ["meta", "meta"]
    assert whole.channels_last().images.stride() == (3 * 32 * 32, 1, 3 * 32, 3)


def test_titled_images_come_in_rows_and_the_rest_of_the_last_is_empty() -> None:
    images = random_images(7).images
    figure = image_grid(images, [f"number {i}" for i in range(7)], 3, "Random images")
    assert figure.get_suptitle() == "Random images"
    assert len(figure.axes) == 9
    assert [title for title, _ in shown(figure)] == [f"number {i}" for i in range(7)]
    assert_shows(figure, images)


def test_each_line_is_cut_to_its_length() -> None:
    for length, expected in ((13, "is automobile\nnot a truck"), (12, "is automobi…\nnot a truck")):
        assert truncate("is automobile\nnot a truck", length) == expected
