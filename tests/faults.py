"""Deliberate faults: each edit of faults.yaml has to make its test fail. `make faults` tries them all.

A fault is found only by a failure of the test itself. What fails in a fixture, does not run, or fails without
the fault too is DEAD: that entry shows nothing.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cifar_resnet import files
from tools import scratch

Fault = dict[str, str]
AT_A_TIME = os.cpu_count() or 1
LIMIT = 600.0  # seconds of a test
OURS = ("benchmarks", "cifar_resnet", "stages", "tests", "tools")
# Each test runs in a child of a process that has imported the libraries, and none of our code.
FORK = get_context("forkserver")
FORK.set_forkserver_preload(["torch._dynamo", "torchvision", "sklearn.metrics", "scipy.stats", "pytest"])


def read() -> list[Fault]:
    """Return the entries of faults.yaml."""
    faults: list[Fault] = files.read_yaml(scratch.ROOT / "tests/faults.yaml")
    return faults


class Outcomes:
    """A plugin of pytest that collects what became of each test: passed, failure, error or skipped."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test."""
        if report.failed:
            self.found.add("failure" if report.when == "call" else "error")
        elif report.skipped or report.when == "call":
            self.found.add(report.outcome)


def run(folder: Path, test: str, sender: "Connection[set[str], set[str]]") -> None:
    """Run `test` of the copy in `folder` and send its outcomes; in a process of its own."""
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    sys.path[:0] = [str(folder), str(folder / "src")]
    os.chdir(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    outcomes = Outcomes()
    pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"tests/{test}"], [outcomes])
    sender.send(outcomes.found)


def outcomes(original: Path, test: str, fault: Fault | None) -> set[str]:
    """Return what becomes of `test` in a copy of `original`, with `fault` in it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(original, folder)
        if fault:
            path = folder / fault["file"]
            path.write_text(path.read_text().replace(fault["find"], fault["put"]))
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=run, args=(folder, test, sender))
        process.start()
        sender.close()
        try:
            return set(receiver.recv()) if receiver.poll(LIMIT) else set()
        except EOFError:  # it died
            return set()
        finally:
            process.kill()
            process.join()


def attempt(original: Path, fault: Fault, sound: dict[str, set[str]]) -> tuple[str, float]:
    """Return the verdict on a fault, and the seconds that it took. `sound`: outcomes without faults."""
    started = time.monotonic()
    found = outcomes(original, fault["test"], fault)
    if sound[fault["test"]] != {"passed"}:
        verdict = "DEAD"
    else:
        verdict = "found" if "failure" in found else "MISSED" if found == {"passed"} else "DEAD"
    return verdict, time.monotonic() - started


def main() -> int:
    """Try the chosen faults; return how many were not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only faults whose description holds one of these")
    parser.add_argument("--since", metavar="COMMIT", help="only faults in files that changed since")
    arguments = parser.parse_args()
    faults = read()
    if arguments.words:
        faults = [fault for fault in faults if any(word in fault["what"] for word in arguments.words)]
    if arguments.since:
        changed = scratch.git(scratch.ROOT, "diff", "--name-only", arguments.since).split()
        faults = [fault for fault in faults if fault["file"] in changed]
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(AT_A_TIME) as pool:
        original = Path(temporary) / "original"
        scratch.clone(original, {})
        tests = sorted({fault["test"] for fault in faults})
        sound = dict(zip(tests, pool.map(lambda test: outcomes(original, test, None), tests), strict=True))
        tried = pool.map(lambda fault: attempt(original, fault, sound), faults)
        lost = 0
        for fault, (verdict, seconds) in zip(faults, tried, strict=True):
            lost += verdict != "found"
            print(f"{verdict:<6} {seconds:5.1f} s  {fault['what']}", flush=True)
    print(f"{len(faults) - lost} of {len(faults)} faults found")
    return lost


if __name__ == "__main__":
    sys.exit(main())
