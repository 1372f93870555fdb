"""Several processes that train as one: they compute what one computes, and the same bits every time."""

import copy
import itertools
import os
import socket
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar_resnet.training.distributed import world
from cifar_resnet.training.distributed.batch_norm import synchronize
from cifar_resnet.training.distributed.world import World
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import TrainState, new_state
from tests.conftest import FORK
from tests.training.test_loop import EVERYTHING, TRAIN, VAL, config

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def one_of(rank: int, size: int, port: int, results: "SimpleQueue[Any]", work: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with world.join(size, CPU) as joined:
        result = work(joined, *arguments)
    results.put((rank, result))


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `work` in `size` processes at once; return what each of them returned, tensors as arrays."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = FORK.SimpleQueue()
    processes = [
        FORK.Process(target=one_of, args=(rank, size, port, results, work, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [found[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("before", [False, True])
def test_the_shares_of_all_are_every_global_batch(size: int, before: bool) -> None:
    order = torch.randperm(50)
    shares = [order[World(rank, size).share(6, 8, before)] for rank in range(size)]
    own = torch.cat([share[:, 1:] if before else share for share in shares], 1)
    assert torch.equal(own, order[:48].view(6, 8))
    if before:
        assert torch.equal(shares[0][:, 0], order[:48].view(6, 8)[:, -1]), "a circle"
        for one, following in itertools.pairwise(shares):
            assert torch.equal(following[:, 0], one[:, -1])


def batch_norm(world: World, images: Tensor, gradient: Tensor, plain: nn.Module, compiled: bool) -> Any:
    model = nn.Sequential(copy.deepcopy(plain))
    synchronize(model)
    if compiled:
        model.compile(fullgraph=True, dynamic=False)
    own = world.part(images).contiguous(memory_format=torch.channels_last).detach().requires_grad_()
    output = model(own)
    output.backward(world.part(gradient))
    assert own.grad is not None
    sums = [world.sum(p.grad) for p in model.parameters() if p.grad is not None]
    return [tensor.detach().double().numpy() for tensor in (output, own.grad, *sums, *model.buffers())]


@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"),
    [
        (2, torch.float64, 1e-12),
        (3, torch.float64, 1e-12),
        (2, torch.float32, 3e-6),
        (2, torch.bfloat16, 2e-2),
    ],
)
def test_batch_norm_is_that_of_the_global_batch(size: int, dtype: torch.dtype, tolerance: float) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(12, 8, 5, 5, generator=draws) * 2 + torch.arange(12)[:, None, None, None]
    images, gradient = images.to(dtype), torch.randn(12, 8, 5, 5, generator=draws).to(dtype)
    plain = nn.BatchNorm2d(8, dtype=torch.promote_types(dtype, torch.float32))
    nn.init.uniform_(plain.weight, generator=draws)
    found = together(size, batch_norm, images, gradient, plain, dtype == torch.float32)

    reference = copy.deepcopy(plain).double()
    whole = images.double().requires_grad_()
    expected = reference(whole)
    expected.backward(gradient.double())
    wanted = [expected, whole.grad, reference.weight.grad, reference.bias.grad, *reference.buffers()]
    for position, value in enumerate(tensor.detach() for tensor in wanted if tensor is not None):
        parts = [one[position] for one in found]
        ours = np.concatenate(parts) if position < 2 else parts[0]
        np.testing.assert_allclose(ours, value, rtol=0, atol=tolerance * float(value.abs().max()))
        if position >= 2:
            assert len({part.tobytes() for part in parts}) == 1, "the same bits everywhere"


def values(state: TrainState) -> dict[str, Any]:
    """All of a state, for comparison to the bit; in NumPy, which goes through a queue."""
    flat = dict(state.state_dict()["model"])
    for number, entry in state.state_dict()["optimizer"]["state"].items():
        flat |= {f"{number}.{name}": tensor for name, tensor in entry.items()}
    average = state.state_dict()["average"] or {}
    flat |= {f"average.{name}": tensor for name, tensor in average.items()}
    flat |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    return {name: tensor.numpy().copy() for name, tensor in flat.items()} | {"history": state.history}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[key] == other[key] if key == "history" else one[key].tobytes() == other[key].tobytes()
        for key in one
    )


def training(world: World, stop: int | None = None) -> Any:
    """Train; return this epoch's loss after every step, and the final state.

    Stopped after `stop` yields, another state goes on from what was saved.
    """
    settings = config(batch_size=24, processes=world.size, **EVERYTHING)
    state = new_state(settings, 3, CPU)
    if stop is not None:
        loop = fit(state, settings, TRAIN, VAL, torch.float32, False, world)
        for _ in range(stop):
            next(loop)
        saved = copy.deepcopy(state.state_dict())
        state = new_state(settings, 3, CPU)
        state.load_state_dict(world.broadcast(saved))
    losses = []
    for _, record in fit(state, settings, TRAIN, VAL, torch.float32, False, world):
        if record is None:
            losses.append(state.totals[0].item() / world.size)
    return losses, values(state)


def test_one_two_and_four_processes_have_the_same_curve() -> None:
    losses, state = training(World())
    for size in (2, 4):
        ranks = together(size, training)
        for rank in ranks:
            assert rank[0] == ranks[0][0]
            assert same(rank[1], ranks[0][1]), "every process has the whole state"
        assert ranks[0][0][0] == pytest.approx(losses[0], rel=1e-5)
        assert ranks[0][0] == pytest.approx(losses, rel=1e-3)  # rounding, which AdamW's first steps enlarge
        for found, wanted in zip(ranks[0][1]["history"], state["history"], strict=True):
            assert found["lr"] == wanted["lr"]
            assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)
            assert found["val_loss"] == pytest.approx(wanted["val_loss"], rel=3e-3)
            assert found["val_accuracy"] == wanted["val_accuracy"], "of 70 images, which 4 does not divide"


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_number_of_processes_gives_the_same_bits_stopped_or_not(size: int) -> None:
    (_, unbroken), *_ = together(size, training)
    for stop in (None, 4):
        (_, state), *_ = together(size, training, stop)
        assert same(state, unbroken)
