"""Fetch CIFAR-10's seven official files, copy pictures of your own, or draw the synthetic data set."""

import os
import shutil
from pathlib import Path

from cifar_resnet import files, params
from cifar_resnet.data import checksums, folder
from cifar_resnet.data.sources import FetchConfig, fetch_cifar10
from cifar_resnet.data.synthetic import synthetic_files
from cifar_resnet.process import command


def main() -> None:
    config = params.read("fetch", FetchConfig)
    unused = files.RAW if config.dataset == "folder" else files.PICTURES
    if config.dataset == "folder":
        print(folder.copy(Path(config.folder), files.PICTURES))
    elif config.dataset == "synthetic":
        with files.replacing_folder(files.RAW) as new:
            for name, content in synthetic_files(config.synthetic).items():
                (new / name).write_bytes(content)
        print(f"drew {config.synthetic.train_images} training and {config.synthetic.test_images} test images")
    else:
        first = os.environ.get("CIFAR10_SOURCE")
        sources = [first, *config.sources] if first else config.sources
        source = fetch_cifar10(sources, files.RAW, files.cache() / "downloads")
        print(f"CIFAR-10 from {source}: the SHA-256 of all seven files is the official one")
    if config.dataset != "folder":
        checksums.write(files.RAW)
    shutil.rmtree(unused, ignore_errors=True)  # of another data set, if DVC has not removed it


if __name__ == "__main__":
    command.run(main, __doc__)
