"""A scratch clone with a tiny network, in which benchmarks run stages and DVC as a user does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools import scratch

TINY: dict[str, Any] = {
    "fetch": {"dataset": "synthetic", "synthetic": {"train_images": 500, "test_images": 100}},
    "preprocess": {"validation_images": 100},
    "train": {"epochs": 1, "batch_size": 50, "compile": False, "model": {"width": 4, "blocks": [1, 1, 1, 1]}},
}


class Clone:
    """A clone in `folder`, whose user cache folder is `cache`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        ours = ("CIFAR10_SOURCE", "TORCHINDUCTOR_CACHE_DIR", "CIFAR_RESNET_LOGS")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = kept | {"PATH": path, "XDG_CACHE_HOME": str(cache), "DVC_NO_ANALYTICS": "1"}
        scratch.clone(folder, TINY)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Edit params.yaml."""
        scratch.change(self.folder / "params.yaml", changes)

    def run(self, *command: str, **environment: str) -> str:
        """Run a command and return what it printed. Raises CalledProcessError when it fails."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout
