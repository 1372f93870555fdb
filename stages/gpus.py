"""Which GPU a process works on: one that no other process of this repository uses, on this machine."""

import os
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from cifar_resnet import device
from stages import files

SHARE = "CIFAR_RESNET_SHARE_GPUS"  # set to anything, it turns this off
SECONDS = 1.0  # between looks for a free one
_held: list[FileLock] = []  # until the process ends, however it ends


def reserve(names: list[str], count: int) -> list[str]:
    """Return `count` of the devices called `names` that no other process has; wait until as many are free.

    The process keeps them until it ends.
    """
    folder = files.CACHE / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = False
    while True:
        with FileLock(folder / "choosing"):  # or two processes could wait for each other's
            free = [lock for name in names if (lock := _lock(folder / name))]
            if len(free) >= count:
                for lock in free[count:]:
                    lock.release()
                _held.extend(free[:count])
                return [Path(lock.lock_file).name for lock in free[:count]]
            for lock in free:
                lock.release()
        if not waiting:
            print(
                f"waiting for {count} of {len(names)} GPUs that no other run uses; {SHARE}=1 shares them",
                flush=True,
            )
        waiting = True
        time.sleep(SECONDS)


def _lock(path: Path) -> FileLock | None:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def take(name: device.Device) -> torch.device:
    """Return the device called `name`: of several GPUs one that is free, or this process's of a launcher."""
    target = device.select_device(name)
    if target.type != "cuda":
        return target
    if "LOCAL_RANK" in os.environ:
        number = int(os.environ["LOCAL_RANK"])
    elif os.environ.get(SHARE):
        number = 0
    else:
        names = _names()
        number = names.index(reserve(names, 1)[0])
    torch.cuda.set_device(number)  # for what does not say which
    return torch.device("cuda", number)


def take_several(name: device.Device, count: int) -> None:
    """Let child processes see `count` free GPUs alone. Raises ValueError when there are not as many.

    On the CPU they get a share of its cores instead.
    """
    kind = device.select_device(name).type
    if kind == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
        return
    present = torch.cuda.device_count()
    if count > present:
        raise ValueError(f"train.processes {count} needs as many GPUs, and PyTorch sees {present} here")
    if not os.environ.get(SHARE):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(reserve(_names(), count))


def _names() -> list[str]:
    """The GPUs' own names, which do not depend on CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]
