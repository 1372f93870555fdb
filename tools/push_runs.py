"""`dvc push --run-cache`, and all that the runs in it gave, so that another clone repeats none of them.

DVC 3.67 pushes the records of the runs alone: metrics and plots, which git tracks, stay behind, and so do the
outputs of runs that no commit names. The other clone does `dvc pull --run-cache` and `dvc repro --pull`.
"""

import argparse
import subprocess
import sys

from dvc.repo import Repo


def main() -> None:
    """Push, count."""
    argparse.ArgumentParser(prog="python -m tools.push_runs", description=__doc__).parse_args()
    if status := subprocess.run(["dvc", "push", "--run-cache"]).returncode:
        sys.exit(status)  # DVC has said why
    with Repo() as repo:
        runs = repo.stage_cache.push(None)
        used = repo.stage_cache.get_used_objs(runs).items()
        pushed = [repo.cloud.push(objects, odb=database) for database, objects in used]
    if failed := sum(len(result.failed) for result in pushed):
        sys.exit(f"error: {failed} files could not be pushed")
    print(f"{len(runs)} runs, {sum(len(result.transferred) for result in pushed)} more files pushed for them")


if __name__ == "__main__":
    main()
