"""Try the faults of faults.yaml: in a copy of the repository each one has to make its tests fail."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cifar_resnet import files
from tools.scratch import ROOT


def main(words: list[str]) -> int:
    """Try the faults whose description holds one of `words`, or all; return how many were not found."""
    faults = files.read_yaml(ROOT / "tests/faults.yaml")
    chosen = [fault for fault in faults if not words or any(word in fault["what"] for word in words)]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        for name in ("src", "stages", "tests", "tools", "recipes", "docs", "results"):
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", "params.yaml", "pyproject.toml", "README.md", "Makefile"):
            shutil.copy(ROOT / name, clone)
        for fault in chosen:
            path = clone / "src/cifar_resnet" / fault["file"]
            text = path.read_text()
            if text.count(fault["find"]) < 1:
                sys.exit(f"error: {fault['file']} does not hold what {fault['what']!r} replaces")
            path.write_text(text.replace(fault["find"], fault["put"]))
            tests = [f"tests/{name}" for name in fault["tests"].split()]
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
            environment = os.environ | {"PYTHONPATH": f"{clone / 'src'}{os.pathsep}{clone}"}
            status = subprocess.run(command, cwd=clone, env=environment, capture_output=True).returncode
            path.write_text(text)
            print(f"{'found ' if status == 1 else 'MISSED'}  {fault['what']}", flush=True)
            missed += [fault["what"]] * (status != 1)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults found")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
