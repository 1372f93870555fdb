"""The hyperparameters of a training run: the train section of params.yaml."""

from typing import Self

from pydantic import Field, model_validator

from cifar_resnet.errors import UserError
from cifar_resnet.network.inference import NormalizationConfig
from cifar_resnet.network.model import ModelConfig
from cifar_resnet.numerics import Compile, Device, Precision
from cifar_resnet.params import Config
from cifar_resnet.training.augmentation import AugmentationConfig
from cifar_resnet.training.mixing import MixingConfig
from cifar_resnet.training.optimizer import OptimizerConfig
from cifar_resnet.training.schedule import ScheduleConfig


class TrainConfig(Config):
    """The hyperparameters of a run. `patience`: epochs without a better validation accuracy
    (not used with `all_images`).

    `processes`: how many share each batch. `label_smoothing`: Szegedy et al. 2015,
    https://arxiv.org/abs/1512.00567, section 7. `ema_decay`: of the moving average of the weights and of the
    batch norms' statistics, which is then validated and kept instead of them; 0 is none. `all_images`: train
    on the validation images too and keep the last epoch.
    """

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int = Field(ge=1)
    device: Device
    processes: int = Field(ge=1)
    precision: Precision
    deterministic: bool
    compile: Compile
    all_images: bool
    zero_gamma: bool
    label_smoothing: float = Field(ge=0, lt=1)
    ema_decay: float = Field(ge=0, lt=1)
    model: ModelConfig = Field(discriminator="name")
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig
    mixing: MixingConfig
    normalization: NormalizationConfig

    @model_validator(mode="after")
    def _equal_shares(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of processes {self.processes}")
        return self

    @model_validator(mode="after")
    def _some_epochs_mix(self) -> Self:
        if self.mixing.cutmix + self.mixing.mixup > 0 and self.mixing.plain_epochs >= self.epochs:
            raise ValueError(
                f"mixing.plain_epochs {self.mixing.plain_epochs} must be less than epochs {self.epochs}"
            )
        return self


def steps_per_epoch(config: TrainConfig, count: int) -> int:
    """Return how many full batches `count` images make; an epoch leaves the incomplete last one out."""
    if config.batch_size > count:
        raise UserError(f"train.batch_size {config.batch_size} must be at most the {count} training images")
    return count // config.batch_size
