"""Images and their labels stay together, and small pictures are shown under their titles."""

import io

import numpy as np
import torch

from cifar_resnet.images import Images, shorten, titled


def random_images(count: int) -> Images:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Images(images, torch.randint(10, (count,), generator=random))


def test_rows_keep_images_and_labels_together() -> None:
    whole = random_images(30)
    index = torch.tensor([29, 0, 0, 7])
    images, labels = whole.rows(index)
    for position, row in enumerate(index.tolist()):
        assert torch.equal(images[position], whole.images[row])
        assert labels[position] == whole.labels[row]


def test_the_channels_of_a_pixel_can_lie_side_by_side() -> None:
    assert random_images(4).channels_last().images.stride() == (3 * 32 * 32, 1, 3 * 32, 3)


def test_images_and_labels_move_together() -> None:
    moved = random_images(4).to(torch.device("meta"))
    assert [tensor.device.type for tensor in moved] == ["meta", "meta"]


def test_titled_images_come_in_rows_and_the_rest_of_the_last_is_empty() -> None:
    images = random_images(7).images
    figure = titled(images, [f"number {i}" for i in range(7)], 3, "Random images")
    assert figure.get_suptitle() == "Random images"
    assert len(figure.axes) == 9
    for index, axes in enumerate(figure.axes):
        shown = [np.asarray(image.get_array()) for image in axes.get_images()]
        assert axes.get_title() == (f"number {index}" if index < 7 else "")
        assert len(shown) == (index < 7)
        if shown:
            assert np.array_equal(shown[0], images[index].permute(1, 2, 0))
    with io.BytesIO() as file:
        figure.savefig(file)
    drawn = figure.get_tightbbox()  # in inches
    assert 0 <= drawn.y0 <= drawn.y1 <= figure.get_figheight()


def test_each_line_is_cut_to_its_length() -> None:
    assert shorten("is automobile\nnot a truck", 13) == "is automobile\nnot a truck"
    assert shorten("is automobile\nnot a truck", 12) == "is automobi…\nnot a truck"
