"""Grad-CAM equals the paper's formula written out in float64, in the right places of the image."""

import copy

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.network.inference import NormalizationConfig, build_normalization
from cifar_resnet.network.resnet import ResNet
from cifar_resnet.serving import explanation
from tests.made_up import shown
from tests.serving.conftest import ABOUT, by_hand, noise


def grad_cam_by_hand(model: ResNet, images: Tensor, classes: Tensor) -> Tensor:
    """The (N, 4, 4) maps in float64.

    `fc` sees the mean of the last block's activations A. So the gradient of a class's logit at each of the 16
    cells of channel k is its weight w_k / 16, and the map is the positive part of the sum of w_k A_k / 16.
    """
    model = copy.deepcopy(model).double()
    x = functional.normalize(images.double() / 255, **ABOUT["normalization"])
    x = model.relu(model.bn1(model.conv1(x)))
    activations = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return torch.einsum("nk,nkhw->nhw", model.fc.weight[classes] / 16, activations).relu().detach()


def test_the_maps_are_grad_cams(model: ResNet) -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(8)])
    config = NormalizationConfig(**ABOUT["normalization"])
    for classes in (by_hand(model, images).argmax(1), torch.arange(8)):
        maps = explanation.grad_cam(model, images, build_normalization(config, torch.device("cpu")), classes)
        assert maps.shape == (8, 32, 32)
        coarse = grad_cam_by_hand(model, images, classes)
        assert coarse.flatten(1).max(1).values.gt(0).sum() >= 4  # else there is nothing to compare
        place = (np.mgrid[:32, :32] + 0.5) / 8  # cell i lies around pixel 8 i
        expected = [ndimage.map_coordinates(x.numpy(), place, order=1, mode="nearest") for x in coarse]
        torch.testing.assert_close(maps.double(), torch.tensor(np.stack(expected)), rtol=1e-5, atol=1e-6)


def test_the_figure_pairs_each_image_with_its_map() -> None:
    images = torch.stack([noise(32, 32, seed) for seed in range(5)])
    maps = torch.rand(5, 32, 32)
    maps[2] = 0  # nothing spoke for it
    titles = [f"cat {i}%" for i in range(5)]
    drawn = shown(explanation.figure(images, maps, titles))
    assert [title for title, _ in drawn] == titles
    for (_, pixels), image, heat in zip(drawn, images, maps, strict=True):
        assert np.array_equal(pixels[:, :32], image.permute(1, 2, 0))
        red, _, blue = pixels[:, -32:].astype(int).transpose(2, 0, 1)
        highest = np.asarray(heat == heat.max()) & (heat.max() > 0).item()
        assert (abs((red - blue)[highest] - 64) <= 1).all()
        assert (abs((blue - red)[np.asarray(heat == 0)] - 64) <= 1).all()
