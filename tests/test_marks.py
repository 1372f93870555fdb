"""What `make check` leaves out."""

import subprocess

import pytest


def test_a_test_without_the_mark_slow_cannot_start_a_process() -> None:
    with pytest.raises(RuntimeError, match="has the mark slow"):
        subprocess.run(["true"])


@pytest.mark.slow
def test_a_test_with_the_mark_slow_can() -> None:
    subprocess.run(["true"], check=True)
