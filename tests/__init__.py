"""Imported before PyTorch is, whose threads it counts."""

import os

# One thread in each of the processes that `make test` runs side by side: more than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
