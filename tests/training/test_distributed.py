"""Several processes that train as one: they compute what one computes, and the same bits every time."""

import copy
import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar_resnet.training.distributed import world
from cifar_resnet.training.distributed.batch_norm import convert_batch_norm
from cifar_resnet.training.distributed.world import World
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state
from tests.conftest import FORK
from tests.training.test_loop import EVERYTHING, TRAIN, VAL, bits, config

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def one_of(rank: int, size: int, port: int, work: Callable[..., Any], arguments: Any) -> Any:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with world.join(size, CPU) as joined:
        return work(joined, *arguments)


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `work` in `size` processes at once; return what each of them returned, which holds no tensors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with FORK.Pool(size) as pool:  # each takes one call, because a call waits for the others
        return pool.starmap(one_of, [(rank, size, port, work, arguments) for rank in range(size)], 1)


def batch_norm(world: World, images: Tensor, gradient: Tensor, plain: nn.Module, compiled: bool) -> Any:
    model = nn.Sequential(copy.deepcopy(plain))
    convert_batch_norm(model)
    if compiled:
        model.compile(fullgraph=True, dynamic=False)
    own = world.shard(images).contiguous(memory_format=torch.channels_last).detach().requires_grad_()
    output = model(own)
    output.backward(world.shard(gradient))
    assert own.grad is not None
    sums = [world.all_reduce_sum(p.grad) for p in model.parameters() if p.grad is not None]
    return [tensor.detach().double().numpy() for tensor in (output, own.grad, *sums, *model.buffers())]


TOLERANCES = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, torch.float32), (2, torch.bfloat16), (2, torch.float64), (3, torch.float64)]
)
def test_batch_norm_is_that_of_the_global_batch(size: int, dtype: torch.dtype) -> None:
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
        np.testing.assert_allclose(ours, value, rtol=0, atol=TOLERANCES[dtype] * float(value.abs().max()))
        if position >= 2:
            assert len({part.tobytes() for part in parts}) == 1, "the same bits everywhere"


def training(world: World, stop: int | None = None) -> Any:
    """Train; return this epoch's loss after every step, the history and the bits of the final state.

    Stopped after `stop` yields, another state goes on from what was saved.
    """
    settings = config(batch_size=24, processes=world.size, **EVERYTHING)
    state, losses = new_state(settings, 3, CPU), []
    if stop is not None:
        loop = fit(state, settings, TRAIN, VAL, torch.float32, False, world)
        for _ in range(stop):
            next(loop)
        saved = copy.deepcopy(state.state_dict())
        state = new_state(settings, 3, CPU)
        state.load_state_dict(world.broadcast(saved))
    for _, record in fit(state, settings, TRAIN, VAL, torch.float32, False, world):
        if record is None:
            losses.append(state.epoch_sums[0].item() / world.size)
    return losses, state.history, bits(state.state_dict())


def trainings(world: World) -> Any:
    return [training(world, stop) for stop in (None, None, 4)]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_have_the_curve_of_one_and_the_same_bits_every_time_stopped_or_not(size: int) -> None:
    alone, history, _ = training(World())
    ranks = together(size, trainings)
    assert all(rank == ranks[0] for rank in ranks), "every process has the whole state"
    unbroken, again, stopped = ranks[0]
    assert unbroken == again
    assert unbroken[1:] == stopped[1:]
    losses, epochs, _ = unbroken
    assert losses[0] == pytest.approx(alone[0], rel=1e-5)
    assert losses == pytest.approx(alone, rel=1e-3)  # rounding, which AdamW's first steps enlarge
    for found, wanted in zip(epochs, history, strict=True):
        assert found["lr"] == wanted["lr"]
        assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)
        assert found["val_loss"] == pytest.approx(wanted["val_loss"], rel=3e-3)
        assert found["val_accuracy"] == wanted["val_accuracy"], "of 70 images, which 3 does not divide"
