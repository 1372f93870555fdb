"""Grad-CAM by captum equals the paper's formula by plain autograd, in the right places of the image."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.network.inference import NormalizationConfig, build_normalization
from cifar_resnet.network.resnet import ResNet
from cifar_resnet.serving import explanation
from tests.serving.conftest import ABOUT, by_hand, noise


def grad_cam_by_hand(model: ResNet, images: Tensor, classes: Tensor) -> Tensor:
    """The (N, 4, 4) maps by plain autograd: gradients averaged over space weigh the activations; ReLU."""
    x = functional.normalize(images / 255, **ABOUT["normalization"])
    x = model.relu(model.bn1(model.conv1(x)))
    activations = model.layer4(model.layer3(model.layer2(model.layer1(x)))).detach().requires_grad_()
    logits = model.fc(model.avgpool(activations).flatten(1))
    maps = []
    for i, label in enumerate(classes.tolist()):
        gradients = torch.autograd.grad(logits[i, label], activations, retain_graph=True)[0][i]
        weights = gradients.mean((1, 2), keepdim=True)
        maps.append((weights * activations[i].detach()).sum(0).relu())
    return torch.stack(maps)


def test_the_maps_are_grad_cams(model: ResNet) -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(8)])
    for classes in (by_hand(model, images).argmax(1), torch.arange(8)):
        normalization = build_normalization(
            NormalizationConfig(**ABOUT["normalization"]), torch.device("cpu")
        )
        maps = explanation.grad_cam(model, images, normalization, classes)
        assert maps.shape == (8, 32, 32)
        coarse = grad_cam_by_hand(model, images, classes)
        assert coarse.flatten(1).max(1).values.gt(0).sum() >= 4  # else there is nothing to compare
        place = (np.mgrid[:32, :32] + 0.5) / 8  # cell i lies around pixel 8 i
        expected = [ndimage.map_coordinates(x.numpy(), place, order=1, mode="nearest") for x in coarse]
        torch.testing.assert_close(maps, torch.tensor(np.stack(expected)), rtol=1e-4, atol=1e-5)


def test_a_cell_of_the_last_block_looks_around_8_times_its_place(model: ResNet) -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(8)]).div(255).requires_grad_()
    x = model.relu(model.bn1(model.conv1(images)))
    activations = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    for cell in (1, 2, 3):
        (gradient,) = torch.autograd.grad(activations[:, :, cell, cell].sum(), images, retain_graph=True)
        strength = gradient.abs().sum((0, 1, 3))
        assert abs((strength * torch.arange(32)).sum() / strength.sum() - 8 * cell) < 1.5


def test_the_figure_pairs_each_image_with_its_map() -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(5)])
    maps = torch.rand(5, 32, 32)
    maps[2] = 0  # nothing spoke for it
    titles = [f"cat {i}%" for i in range(5)]
    cells = explanation.figure(images, maps, titles).axes
    shown = [cell for cell in cells if cell.get_images()]
    assert [cell.get_title("left") for cell in shown[::2]] == titles
    for i, (left, right) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
        assert np.array_equal(np.asarray(left.get_images()[0].get_array()), images[i].permute(1, 2, 0))
        assert np.array_equal(np.asarray(right.get_images()[1].get_array()), maps[i])
