"""How the time of a training step grows with the network."""

import statistics

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipe import CONFIG, noise
from benchmarks.report import Row, report, timings
from cifar_resnet import numerics
from cifar_resnet.network.resnet import ResNetConfig
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state

NETWORKS = [
    ResNetConfig(width=width, blocks=blocks)
    for width, blocks in [
        (16, (3, 4, 6, 3)),
        (32, (3, 4, 6, 3)),
        (64, (3, 4, 6, 3)),
        (64, (1, 1, 1, 1)),
        (64, (2, 2, 2, 2)),
        (64, (3, 4, 23, 3)),
    ]
]


def main() -> None:
    """Measure a training step of narrower, shallower and deeper networks, and report."""
    numerics.set_deterministic(True)
    target = numerics.find_device("auto")
    dtype = numerics.autocast_dtype("auto", target)
    size, steps = (256, 10) if target.type == "cuda" else (32, 1)
    data = noise(size * steps * 8, target)
    rows: list[Row] = []
    for network in NETWORKS:
        config = CONFIG.model_copy(update={"batch_size": size, "model": network})
        state = new_state(config, 10, target)
        loop = fit(state, config, data, data, dtype)
        with FlopCounterMode(display=False) as flops:
            next(loop)

        def run(loop: object = loop) -> None:
            for _ in range(steps):
                next(loop)  # type: ignore[call-overload]

        seconds = statistics.median(timings({"step": run}, repeats=3)["step"]) / steps
        total = flops.get_total_flops()
        rows.append(
            {
                "width and blocks": f"{network.width}, {list(network.blocks)}",
                "million weights": sum(p.numel() for p in state.model.parameters()) / 1e6,
                "GFLOP an image": total / size / 1e9,
                "ms an image": 1e3 * seconds / size,
                "TFLOP/s": total / seconds / 1e12,
            }
        )
    report("growth_network", "training step, not compiled, deterministic", rows)


if __name__ == "__main__":
    main()
