"""Run all benchmarks, or those named, and bring docs/performance.md up to date."""

import argparse
import os
import subprocess
import sys

from benchmarks import tables
from cifar_resnet.network import device
from cifar_resnet.process import memory

# With the settings for memory that train has on a CPU.
KEPT = ("roofline",)
NAMES = ("augmentation", "training_step", "roofline", "growth")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    on_cpu = device.select_device("auto").type == "cpu"
    for name in parser.parse_args().names:  # each in a process of its own, so that none warms up another
        kept = {memory.TUNABLES: memory.tunables()} if name in KEPT and on_cpu else {}
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, env=kept | os.environ)
    tables.write()
