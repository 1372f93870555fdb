"""Deliberate faults: each edit of faults.yaml has to make its test fail. `make faults` tries them all.

A fault is found only by a failure of the test itself. What fails in a fixture, does not run, or fails without
the fault too is DEAD: that entry shows nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from queue import Queue
from xml.etree import ElementTree

from cifar_resnet import files
from tools import scratch

Fault = dict[str, str]
AT_A_TIME = os.cpu_count() or 1


def read() -> list[Fault]:
    """Return the entries of faults.yaml."""
    faults: list[Fault] = files.read_yaml(scratch.ROOT / "tests/faults.yaml")
    return faults


def outcomes(folder: Path, tests: Sequence[str], *options: str) -> dict[str, str]:
    """Run tests in a copy of the repository; return what became of each: passed, failure, error, skipped."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    paths = f"{folder / 'src'}{os.pathsep}{folder}"
    quiet = ("-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1", *options)
    subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *(f"tests/{test}" for test in tests)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    found = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else []:
        name = f"{case.get('file', '').removeprefix('tests/')}::{case.get('name')}"
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[name] = kinds[0] if kinds else "passed"
    return found


def verdict(found: dict[str, str]) -> str:
    """Return what the outcomes of a fault's test say of the fault."""
    kinds = set(found.values())
    return "found" if "failure" in kinds else "MISSED" if kinds == {"passed"} else "DEAD"


def attempt(fault: Fault, copies: "Queue[Path]") -> tuple[str, float]:
    """Return the verdict on one fault, and the seconds that it took."""
    folder, started = copies.get(), time.monotonic()
    path = folder / fault["file"]
    text = path.read_text()
    try:
        path.write_text(text.replace(fault["find"], fault["put"]))
        return verdict(outcomes(folder, [fault["test"]], "-x")), time.monotonic() - started
    finally:
        path.write_text(text)
        copies.put(folder)


def main() -> int:
    """Try the chosen faults; return how many were not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only faults whose description holds one of these")
    parser.add_argument("--since", metavar="COMMIT", help="only faults in files that changed since")
    arguments = parser.parse_args()
    faults = [
        fault for fault in read() if not arguments.words or any(w in fault["what"] for w in arguments.words)
    ]
    if arguments.since:
        changed = scratch.git(scratch.ROOT, "diff", "--name-only", arguments.since).split()
        faults = [fault for fault in faults if fault["file"] in changed]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(AT_A_TIME) as pool:
        copies: Queue[Path] = Queue()
        for number in range(AT_A_TIME):
            scratch.clone(Path(temporary) / str(number), {})
            copies.put(Path(temporary) / str(number))
        tests = sorted({fault["test"] for fault in faults})
        sound = outcomes(Path(temporary) / "0", tests, "--numprocesses", str(AT_A_TIME))
        lost = 0
        for fault, (told, seconds) in zip(faults, pool.map(attempt, faults, repeat(copies)), strict=True):
            own = {kind for name, kind in sound.items() if name.startswith(fault["test"])}
            told = told if own == {"passed"} else "DEAD"
            lost += told != "found"
            print(f"{told:<6} {seconds:5.1f} s  {fault['what']}", flush=True)
    print(f"{len(faults) - lost} of {len(faults)} faults found")
    return lost


if __name__ == "__main__":
    sys.exit(main())
