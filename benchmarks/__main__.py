"""Run all benchmarks, or those named, and bring docs/performance.md up to date."""

import argparse
import subprocess
import sys

from benchmarks import tables

NAMES = ("augmentation", "training_step", "roofline", "growth")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    for name in parser.parse_args().names:  # each in a process of its own, so that none warms up another
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    tables.write()
