"""Commands for a person, run in a clone as `python -m tools.NAME`."""

import sys
from importlib.util import find_spec
from pathlib import Path

if not find_spec("torch"):
    sys.exit(f"error: {sys.executable} has none of this project's packages: `source .venv/bin/activate`")
# A clone runs its own library, whichever other one is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
