"""Fetch CIFAR-10's seven official files, or draw the synthetic data set in the same format."""

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cifar_resnet.download import fetch_cifar10
from cifar_resnet.synthetic import SyntheticConfig, synthetic_files
from stages import command, files


class FetchConfig(BaseModel):
    """`sources`: folders, archives or URLs, tried in order after the environment variable CIFAR10_SOURCE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Literal["cifar10", "synthetic"]
    sources: list[str] = Field(min_length=1)
    synthetic: SyntheticConfig


def main() -> None:
    config = files.read_params("fetch", FetchConfig)
    if config.dataset == "synthetic":
        files.write_raw(synthetic_files(config.synthetic))
        print(f"drew {config.synthetic.train_images} training and {config.synthetic.test_images} test images")
    else:
        first = os.environ.get("CIFAR10_SOURCE")
        sources = [first, *config.sources] if first else config.sources
        source = fetch_cifar10(sources, files.RAW, files.CACHE / "downloads")
        print(f"CIFAR-10 from {source}: the SHA-256 of all seven files is the official one")
    files.write_checksums()


if __name__ == "__main__":
    command.run(main, __doc__)
