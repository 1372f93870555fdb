"""Which GPU a process works on: one that no other process of this repository uses, on this machine."""

import os
import re
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from cifar_resnet import files
from cifar_resnet.files.params import UserError
from cifar_resnet.network import cuda, device

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
    target = torch.device("cuda", number)
    cuda.check_code(target)
    torch.cuda.set_device(number)  # for what does not say which
    return target


def take_several(name: device.Device, count: int) -> torch.device:
    """Let child processes see `count` free GPUs alone; return what kind of device each of them gets.

    On the CPU they get a share of its cores instead. Raises UserError when there are not as many GPUs.
    """
    target = device.select_device(name)
    if target.type == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
        return target
    present = torch.cuda.device_count()
    if count > present:
        raise UserError(f"train.processes {count} needs as many GPUs, and PyTorch sees {present} here")
    if not os.environ.get(SHARE):
        names, entries = _names(), _entries()
        taken = [names.index(name) for name in reserve(names, count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(entries[number] for number in taken)
    return target


def _entries() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process sees: a number, a UUID, a MIG instance."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]


def _names() -> list[str]:
    """Names for locks, which two processes that see the same GPUs in another order share.

    A MIG instance has the name it was given by: its properties can hold the UUID of the whole GPU.
    """
    names = []
    for number, entry in enumerate(_entries()[: torch.cuda.device_count()]):
        properties = torch.cuda.get_device_properties(number)
        own = entry if entry.startswith("MIG-") else f"GPU-{getattr(properties, 'uuid', entry)}"
        names.append(re.sub(r"[^\w-]", "_", own))
    return names
