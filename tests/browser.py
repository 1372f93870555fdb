"""The page of `dvc plots show` as a real browser without a network draws it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.scratch import ROOT

CHROMIUM = shutil.which("chromium") or ""
CHROMIUM_FLAGS = shlex.split("""
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom
""")
NEEDS_BROWSER = pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")


def run(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` with the `dvc` and the `tools` of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def shown_page(repository: Path) -> str:
    run(repository, "dvc", "plots", "show")
    return (repository / "dvc_plots" / "index.html").read_text(encoding="utf-8")


def drawn(repository: Path, profile: Path) -> tuple[str, list[str]]:
    """The page as a browser without a network draws it, and what it says on its console."""
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    page = repository / "dvc_plots" / "index.html"
    browser = run(repository, CHROMIUM, *CHROMIUM_FLAGS, *offline, page.as_uri())
    # DVC's charts name version 5 of Vega-Lite and hold empty channels.
    known = ("WARN ", "The input spec uses Vega-Lite v5")
    console = re.findall(r'CONSOLE:\d+\] "(.*)", source:', browser.stderr)
    return browser.stdout, [line for line in console if not line.startswith(known)]
