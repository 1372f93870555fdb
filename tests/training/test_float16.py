"""Training in float16: gradients are scaled up, and the scale is part of the state."""

import copy
import io
from typing import Any

import pytest
import torch

from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import TrainState, new_state
from tests.training.test_distributed import same, values
from tests.training.test_loop import EVERYTHING, TRAIN, VAL, config, finish

CPU = torch.device("cpu")
HALF = torch.float16


def scaled(settings: Any) -> TrainState:
    """A state whose scale changes after two good steps, and after the first, which is far too large."""
    state = new_state(settings, 3, CPU, HALF)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=2)
    return state


def saved(state: TrainState) -> bytes:
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    return buffer.getvalue()


def test_a_resumed_run_equals_an_unbroken_one() -> None:
    settings = config(**EVERYTHING)
    unbroken, scales, states = scaled(settings), [], []
    for state, _ in fit(unbroken, settings, TRAIN, VAL, HALF):
        scales.append(state.scaler.get_scale())
        states.append(saved(state))
    assert len(set(scales)) > 2, "it falls and rises"
    for moment in (0, 5, len(states) - 2):
        resumed = scaled(settings)
        content = torch.load(io.BytesIO(states[moment]), weights_only=True)  # noqa: TID251
        resumed.load_state_dict(copy.deepcopy(content))
        finish(resumed, settings, HALF)
        assert same(values(resumed), values(unbroken))
        assert resumed.scaler.state_dict() == unbroken.scaler.state_dict()


def test_a_step_whose_gradients_overflow_changes_no_weight_and_halves_the_scale() -> None:
    settings = config()
    state = scaled(settings)
    before = copy.deepcopy(state.model.state_dict())
    next(fit(state, settings, TRAIN, VAL, HALF))
    assert state.scaler.get_scale() == 2.0**39
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16])
def test_it_learns_as_float32_does(dtype: torch.dtype) -> None:
    settings = config(epochs=4)
    full, half = (finish(new_state(settings, 3, CPU, one), settings, one) for one in (torch.float32, dtype))
    assert half.history[-1]["train_loss"] == pytest.approx(full.history[-1]["train_loss"], rel=0.1)
    assert half.history[-1]["train_loss"] < 0.9 * half.history[0]["train_loss"]
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}


def test_other_precisions_have_no_scale_and_take_up_a_state_without_one() -> None:
    settings = config()
    state = new_state(settings, 3, CPU, torch.bfloat16)
    assert not state.scaler.is_enabled()
    content = state.state_dict()
    assert content.pop("scaler") == {}
    new_state(settings, 3, CPU, torch.bfloat16).load_state_dict(content)
