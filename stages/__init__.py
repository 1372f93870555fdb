"""The stages of dvc.yaml, run as `python -m stages.NAME`."""

import sys
from pathlib import Path

# A clone runs its own library, whichever other one is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
