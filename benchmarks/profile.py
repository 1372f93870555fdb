"""Where the time of an epoch goes: the kernels (on the CPU: operators), and how busy they keep a GPU."""

import time

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, synchronize
from cifar_resnet.network import device
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state

TOP = 12


def main() -> None:
    """Measure and report."""
    device.make_deterministic(True)
    target = device.select_device("auto")
    cuda = target.type == "cuda"
    config = CONFIG.model_copy(update={"batch_size": CONFIG.batch_size if cuda else 128, "epochs": 2})
    train, val = (noise(count, target) for count in ((45_000, 5_000) if cuda else (512, 512)))
    dtype = device.autocast_dtype("auto", target)
    loop = fit(new_state(config, 10, target), config, train, val, dtype, compiled=True)
    for _, record in loop:  # the first epoch compiles
        if record:
            break
    synchronize()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        for _ in loop:
            pass
        synchronize()
    wall = time.perf_counter() - started
    column = "self_device_time_total" if cuda else "self_cpu_time_total"
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    times = [
        (e.key, e.count, getattr(e, column) / 1e6) for e in profiled.key_averages() if e.device_type == kind
    ]
    total = sum(seconds for _, _, seconds in times)
    rows: list[Row] = [
        {
            "kernel": name.replace("## Call CompiledFxGraph ", "compiled graph ")[:60],
            "calls": float(count),
            "ms": 1e3 * seconds,
            "% of the epoch": 100 * seconds / wall,
        }
        for name, count, seconds in sorted(times, key=lambda entry: -entry[2])[:TOP]
    ]
    rest = total - sum(row["ms"] for row in rows) / 1e3
    rows.append({"kernel": "all others", "calls": "", "ms": 1e3 * rest, "% of the epoch": 100 * rest / wall})
    rows.append({"kernel": "sum", "calls": "", "ms": 1e3 * total, "% of the epoch": 100 * total / wall})
    images = f"{len(train.labels):,} training and {len(val.labels):,} validation images"
    report("profile", f"an epoch of {images}, batch {config.batch_size}, compiled, deterministic", rows)


if __name__ == "__main__":
    main()
