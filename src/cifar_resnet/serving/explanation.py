"""Where the network looked: Grad-CAM, Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391."""

from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate, pad

from cifar_resnet.images import image_grid
from cifar_resnet.network.base import Network
from cifar_resnet.network.inference import Normalization


def grad_cam(model: Network, images: Tensor, normalization: Normalization, classes: Tensor) -> Tensor:
    """Return (N, H, W) float32 maps of what spoke for a class, on the CPU: 0 is nothing.

    `images`: (N, 3, H, W) uint8 on any device; `classes`: (N,) int64, the one to explain of each image. The
    maps are those of the network's last block, interpolated bilinearly: H / 8 by W / 8 for ResNet.
    """
    inputs = normalization(images.to(normalization.scale.device))
    cut: list[Tensor] = []

    def begin_here(*call: Any) -> Tensor:
        cut.append(call[-1].detach().requires_grad_())
        return cut[0].clone()  # the rest of the network may change it in place

    with model.last_block.register_forward_hook(begin_here):
        logits = model.eval()(inputs)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes.to(inputs.device)[:, None]).sum(), cut)
    coarse = (gradient.mean((2, 3), keepdim=True) * cut[0]).sum(1, keepdim=True).relu().detach().cpu()
    # 3x3 convolutions of stride 2 and padding 1 look around pixels 0, 2, 4, ..., so cell i lies around pixel
    # 8 i after three. Interpolation takes it to lie at 8 i + 3.5: so one cell more, and half of one cut off.
    height, width = images.shape[-2:]
    cell = height // coarse.shape[-2]
    wider = pad(coarse, (0, 1, 0, 1), mode="replicate")
    maps = interpolate(wider, (height + cell, width + cell), mode="bilinear", align_corners=False)
    return maps[:, 0, cell // 2 :, cell // 2 :][:, :height, :width]


def figure(images: Tensor, maps: Tensor, titles: list[str]) -> Figure:
    """Show each image, and beside it in grey under its map, whose highest value is red whatever it is.

    `images`: (N, 3, H, W) uint8; `maps`: (N, H, W), from 0.
    """
    highest = maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
    heat = torch.from_numpy(colormaps["jet"]((maps / highest).numpy())[..., :3]).permute(0, 3, 1, 2)
    grey = images.float().mean(1, keepdim=True) / 255
    overlay = (255 * (grey + heat) / 2).round().to(torch.uint8)
    gap = torch.full_like(images[..., :2], 255)
    pairs = torch.cat([images, gap, overlay], dim=3)
    return image_grid(pairs, titles, columns=min(len(images), 4), heading="Where the network looked")
