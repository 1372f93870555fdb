"""What a stage's process does around its work: usage, one line for what a user can mend, exit status."""

import argparse
import hashlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = (str(ROOT / "stages"), str(ROOT / "src"))


def run(stage: Callable[[], None], description: str | None) -> None:
    """Call `stage`; end with status 1 and one line for a user's error, a traceback for a bug of ours."""
    parser = argparse.ArgumentParser(description=description, epilog="Settings are in params.yaml.")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    arguments = parser.parse_args()
    try:
        stage()
    except (ValueError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = last.filename.startswith(OURS) and (last.line or "").startswith("raise ")
        # A ValueError that we did not raise is a bug; an OSError (full disk, missing file) is the user's.
        if arguments.traceback or not (told or isinstance(error, OSError)):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def code_digest() -> str:
    """Return the SHA-256 of this project's modules that the process has loaded."""
    paths = {getattr(module, "__file__", None) or "" for module in sys.modules.values()}
    ours = [Path(path) for path in sorted(paths) if path.startswith(OURS)]
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in ours)).hexdigest()
