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
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cifar_resnet import params
from tools import scratch

Fault = dict[str, str]
Found = dict[str, set[str]]  # by test
AT_A_TIME = os.cpu_count() or 1
LIMIT = 1200.0  # seconds of a process
OURS = ("benchmarks", "cifar_resnet", "stages", "tests", "tools")
# Each test runs in a child of a process that has imported the libraries, and none of our code.
FORK = get_context("forkserver")
LIBRARIES = "torch._dynamo torchvision sklearn.metrics matplotlib.figure pandas pydantic pytest"
FORK.set_forkserver_preload(LIBRARIES.split())


def read() -> list[Fault]:
    """Return the entries of faults.yaml."""
    faults: list[Fault] = params.read_yaml(scratch.ROOT / "tests/faults.yaml")
    return faults


class Outcomes:
    """A plugin of pytest that collects what became of each test: passed, failure, error or skipped."""

    def __init__(self) -> None:
        self.found: Found = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test."""
        found = self.found[report.nodeid.removeprefix("tests/")]
        if report.failed:
            found.add("failure" if report.when == "call" else "error")
        elif report.skipped or report.when == "call":
            found.add(report.outcome)


def run(folder: Path, tests: list[str], sender: "Connection[Found, Found]") -> None:
    """Run `tests` of the copy in `folder` and send what became of them; in a process of its own."""
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    sys.path[:0] = [str(folder), str(folder / "src")]
    os.chdir(folder)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    outcomes = Outcomes()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to import than a test takes
    options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", *["-x"] * (len(tests) == 1)]
    pytest.main([*options, *(f"tests/{test}" for test in tests)], [outcomes])
    sender.send(dict(outcomes.found))


def outcomes(original: Path, tests: list[str], fault: Fault | None) -> Found:
    """Return what becomes of each of `tests` in a copy of `original`, with `fault` in it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(original, folder)
        if fault:
            path = folder / fault["file"]
            path.write_text(path.read_text().replace(fault["find"], fault["put"]))
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=run, args=(folder, tests, sender))
        process.start()
        sender.close()
        try:
            found = receiver.recv() if receiver.poll(LIMIT) else {}
        except EOFError:  # it died
            found = {}
        finally:
            process.join(10)
            process.kill()
            process.join()
    # A test may stand for all of its cases.
    cases = {test: [case for case in found if case == test or case.startswith(f"{test}[")] for test in tests}
    return {test: set().union(*(found[case] for case in cases[test])) for test in tests}


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
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(AT_A_TIME) as pool:
        original = Path(temporary) / "original"
        scratch.clone(original, {})
        tests = sorted({fault["test"] for fault in faults})
        sound = pool.submit(outcomes, original, tests, None)
        tried = pool.map(lambda fault: outcomes(original, [fault["test"]], fault), faults)
        lost = 0
        for fault, outcome in zip(faults, tried, strict=True):
            found = outcome[fault["test"]]
            passes = sound.result()[fault["test"]] == {"passed"}  # without the fault
            verdict = "found" if passes and "failure" in found else "DEAD"
            verdict = "MISSED" if passes and found == {"passed"} else verdict
            lost += verdict != "found"
            print(f"{verdict:<6} {time.monotonic() - started:4.0f} s  {fault['what']}", flush=True)
    print(f"{len(faults) - lost} of {len(faults)} faults found")
    return lost


if __name__ == "__main__":
    sys.exit(main())
