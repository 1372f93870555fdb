"""Fetch CIFAR-10's seven official files, or draw the synthetic data set in the same format."""

import os

from cifar_resnet import files
from cifar_resnet.data.cifar10 import write_checksums
from cifar_resnet.data.sources import FetchConfig, fetch_cifar10
from cifar_resnet.data.synthetic import synthetic_files
from cifar_resnet.process import command


def main() -> None:
    config = files.read_params("fetch", FetchConfig)
    if config.dataset == "synthetic":
        for name, content in synthetic_files(config.synthetic).items():
            files.write_bytes(files.RAW / name, content)
        print(f"drew {config.synthetic.train_images} training and {config.synthetic.test_images} test images")
    else:
        first = os.environ.get("CIFAR10_SOURCE")
        sources = [first, *config.sources] if first else config.sources
        source = fetch_cifar10(sources, files.RAW, files.CACHE / "downloads")
        print(f"CIFAR-10 from {source}: the SHA-256 of all seven files is the official one")
    write_checksums()


if __name__ == "__main__":
    command.run(main, __doc__)
