"""ResNet for 32 x 32 images: He et al. 2015, https://arxiv.org/abs/1512.03385, section 3.3 and figure 5."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from cifar_resnet.files.params import Config, UserError

Count = Annotated[int, Field(ge=1, le=100)]


class ModelConfig(Config):
    """`width`: channels of the first stage before expansion (64 in the paper).

    `blocks`: bottlenecks in each stage ([3, 4, 6, 3] is ResNet50); every stage after the first halves
    the image and doubles the channels.
    """

    # Below 4, oneDNN 3.x corrupts the heap in the backward pass of the strided 1x1 convolutions.
    width: int = Field(ge=4, le=1024)
    blocks: tuple[Count, Count, Count, Count]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; the stride is on the 3x3, as in torchvision (v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        output: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return output


def _layer(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(width * Bottleneck.expansion, width, stride=1) for _ in range(count - 1)]
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


class ResNet(nn.Module):
    """Bottleneck ResNet whose state dict has the names of `torchvision.models.resnet50`.

    The stem is a 3x3 stride-1 convolution without max-pooling, since the images are small.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        width, (count1, count2, count3, count4) = config.width, config.blocks
        self.layer1 = _layer(width, width, count1, stride=1)
        self.layer2 = _layer(4 * width, 2 * width, count2, stride=2)
        self.layer3 = _layer(8 * width, 4 * width, count3, stride=2)
        self.layer4 = _layer(16 * width, 8 * width, count4, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32 * width, classes)

    @property
    def name(self) -> str:
        """ResNet and how many layers have weights, as in the paper: "ResNet50" for blocks [3, 4, 6, 3]."""
        blocks = sum(isinstance(module, Bottleneck) for module in self.modules())
        return f"ResNet{3 * blocks + 2}"  # three convolutions each, the stem and the linear layer

    @property
    def last_block(self) -> nn.Module:
        """The block whose (N, 32 * width, H / 8, W / 8) output is pooled: what Grad-CAM looks at."""
        return self.layer4[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, classes) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build_model(
    config: ModelConfig, classes: int, generator: torch.Generator, zero_gamma: bool = False
) -> ResNet:
    """Return a new network on the CPU, in channels_last, initialized from `generator` alone.

    Convolutions: He initialization, fan out (https://arxiv.org/abs/1502.01852); batch norm: weight 1, bias
    0; linear: uniform within 1 / sqrt(fan in). The same distributions as torchvision's resnet50.

    `zero_gamma`: the weight of each block's last batch norm is 0, so that the block starts as its shortcut
    (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
    """
    with torch.device("meta"):  # PyTorch's own initialization would draw from the global generator
        model = ResNet(config, classes)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # draws nothing: ones and zeros, running statistics too
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    if zero_gamma:
        for module in model.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
    return model.to(memory_format=torch.channels_last)


def restore_model(config: ModelConfig, classes: int, weights: dict[str, Tensor]) -> ResNet:
    """Return the network with these weights, on the CPU. Raises UserError when they do not fit it."""
    with torch.device("meta"):
        model = ResNet(config, classes)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        network = f"a network of width {config.width} and blocks {config.blocks}"
        raise UserError(f"the weights do not fit {network}: {first}") from None
    return model.to(memory_format=torch.channels_last)
