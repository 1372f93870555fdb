"""ResNet for small images: He et al. 2015, https://arxiv.org/abs/1512.03385, section 3.3 and figure 5."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from cifar_resnet.network.base import Network
from cifar_resnet.params import Config

Count = Annotated[int, Field(ge=1, le=100)]


class ResNetConfig(Config):
    """`width`: channels of the first stage before expansion (64 in the paper).

    `blocks`: bottlenecks in each stage ([3, 4, 6, 3] is ResNet50); every stage after the first halves
    the image and doubles the channels.
    """

    name: Literal["resnet"] = "resnet"
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


class ResNet(Network):
    """Bottleneck ResNet whose state dict has the names of `torchvision.models.resnet50`.

    The stem is a 3x3 stride-1 convolution without max-pooling, since the images are small.
    """

    def __init__(self, config: ResNetConfig, classes: int) -> None:
        super().__init__(config, classes)
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
        self.name = f"ResNet{3 * sum(config.blocks) + 2}"  # three convolutions each, stem, linear layer
        self.description = (
            f"A bottleneck ResNet with blocks {list(config.blocks)} and width {config.width}.\n"
            "Its stem is a 3x3 convolution with stride 1, without max-pooling."
        )
        if (config.width, config.blocks) == (64, (3, 4, 6, 3)):
            self.torchvision = "resnet50"

    @property
    def last_block(self) -> nn.Module:
        """The block whose (N, 32 * width, H / 8, W / 8) output is pooled."""
        return self.layer4[-1]

    @property
    def residual_gammas(self) -> list[Tensor]:
        """The weights of each block's last batch norm."""
        return [block.bn3.weight for block in self.modules() if isinstance(block, Bottleneck)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, classes) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
