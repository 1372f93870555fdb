"""The networks that params.yaml can name; how one is made, told to a model file and restored."""

from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from cifar_resnet.errors import UserError
from cifar_resnet.network.base import Network
from cifar_resnet.network.resnet import ResNet, ResNetConfig

# A network of your own: its class here under the `name` of its config, and its config as `| YourConfig`.
NETWORKS: dict[str, type[Network]] = {"resnet": ResNet}
ModelConfig = ResNetConfig

DEFAULT_NETWORK = "resnet"  # which a model file does not name: it has the bytes of before there were others


def build_model(
    config: ModelConfig, classes: int, generator: torch.Generator, zero_gamma: bool = False
) -> Network:
    """Return a new network on the CPU, in channels_last, initialized from `generator` alone.

    Convolutions: He initialization, fan out (https://arxiv.org/abs/1502.01852); batch norm: weight 1, bias
    0; linear: uniform within 1 / sqrt(fan in). The same distributions as torchvision's resnet50.

    `zero_gamma`: the weight of each block's last batch norm is 0, so that the block starts as its shortcut
    (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
    Raises UserError when the network has no such blocks, or weights in other kinds of layers.
    """
    with torch.device("meta"):  # PyTorch's own initialization would draw from the global generator
        model = NETWORKS[config.name](config, classes)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # draws nothing: ones and zeros, running statistics too
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            kind = type(module).__name__
            raise UserError(f"network/model.py: build_model does not know how a {kind} starts; say it there")
    if zero_gamma:
        if not model.residual_gammas:
            raise UserError(f"train.zero_gamma: {model.name} has no blocks with a shortcut; set it to false")
        for gamma in model.residual_gammas:
            nn.init.zeros_(gamma)
    return model.to(memory_format=torch.channels_last)


def to_metadata(config: ModelConfig) -> dict[str, Any]:
    """Return what a model file says of its network."""
    about = config.model_dump(mode="json")
    return {name: value for name, value in about.items() if (name, value) != ("name", DEFAULT_NETWORK)}


def read_config(about: dict[str, Any]) -> ModelConfig:
    """Return the config that `to_metadata` was given."""
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(Annotated[ModelConfig, Field(discriminator="name")])
    return adapter.validate_python({"name": DEFAULT_NETWORK} | about)


def restore_model(config: ModelConfig, classes: int, weights: dict[str, Tensor]) -> Network:
    """Return the network with these weights, on the CPU. Raises UserError when they do not fit it."""
    with torch.device("meta"):
        model = NETWORKS[config.name](config, classes)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        settings = [f"{name} {value}" for name, value in config.model_dump(exclude={"name"}).items()]
        raise UserError(f"the weights do not fit a network of {' and '.join(settings)}: {first}") from None
    return model.to(memory_format=torch.channels_last)
