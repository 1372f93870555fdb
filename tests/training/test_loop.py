"""The training loop against a plain one, and its promise that a run can go on from any yield."""

import copy
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, dropout

from cifar_resnet import numerics
from cifar_resnet.errors import UserError
from cifar_resnet.images import Images
from cifar_resnet.network.inference import build_normalization, predict, predict_all
from cifar_resnet.randomness import generator
from cifar_resnet.training.augmentation import augment, sample
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.loop import StepLoss, fit
from cifar_resnet.training.optimizer import build_optimizer
from cifar_resnet.training.state import EpochMetrics, TrainState, new_state, stop_reason, summary
from tests.training.test_augmentation import torchvision_augment
from tools import recipes, scratch

CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WAYS = [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=pytest.mark.slow)]
if torch.cuda.is_available():  # as a stage computes there
    numerics.find_device("cuda")
    numerics.set_deterministic(True)
SETTINGS: dict[str, Any] = scratch.merge(
    recipes.read_recipe(scratch.ROOT / "recipes/original.yaml")["train"],
    {
        "seed": 3,
        "epochs": 3,
        "batch_size": 16,
        "precision": "float32",
        "compile": False,
        "model": {"width": 4, "blocks": [1, 1, 1, 1]},
        "optimizer": {"lr": 0.002, "weight_decay": 0.05},
    },
)
OPTIMIZER = SETTINGS["optimizer"]
STATISTICS = SETTINGS["normalization"].values()
EVERYTHING: dict[str, Any] = {
    "zero_gamma": True,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "schedule": {"shape": "cosine", "warmup": 0.2},
    "optimizer": OPTIMIZER | {"decay_all": False},
    "augmentation": SETTINGS["augmentation"] | {"cutout": 8},
    "mixing": {"cutmix": 0.5, "mixup": 0.3, "plain_epochs": 1},
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**SETTINGS | changes)


def data(count: int, seed: int) -> Images:
    """Noise on one of three backgrounds: something can be learnt."""
    draws = generator(seed, "data")
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, 3, 32, 32), generator=draws)
    return Images((noise + 60 * labels.view(-1, 1, 1, 1)).byte(), labels)


TRAIN, VAL = data(70, 0), data(70, 1)


def training(
    state: TrainState, config: TrainConfig, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> Iterator[tuple[TrainState, EpochMetrics | None]]:
    target = state.epoch_sums.device
    return fit(state, config, TRAIN.to(target), VAL.to(target), dtype, compiled)


def run(
    config: TrainConfig, device: str = "cpu", compiled: bool = False, dtype: torch.dtype = torch.float32
) -> TrainState:
    """Train until nothing is left to do."""
    state = new_state(config, 3, torch.device(device), dtype)
    for _ in training(state, config, dtype, compiled):
        pass
    return state


def bits(content: Any) -> Any:
    """Containers with a digest in the place of each tensor, for comparison to the bit."""
    if isinstance(content, Tensor):
        return hashlib.sha256(content.detach().cpu().numpy().tobytes()).hexdigest()
    if isinstance(content, dict):
        return {name: bits(value) for name, value in content.items()}
    return [bits(value) for value in content] if isinstance(content, list) else content


def batches(settings: TrainConfig, epoch: int) -> Iterator[tuple[Tensor, slice]]:
    """The rows of each batch of an epoch, and which of the epoch's draws are theirs."""
    order = torch.randperm(70, generator=generator(3, "shuffle", epoch))
    for start in range(0, 64, 16):
        yield order[start : start + 16], slice(start, start + 16)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    loss = cross_entropy(model.train()(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_two_epochs_equal_a_plain_loop_over_pil_images() -> None:
    settings = config(epochs=2)
    ours = run(settings)

    model = new_state(settings, 3, CPU).model.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05, foreach=False, fused=False)
    for epoch, record in enumerate(ours.history):
        draws = sample(settings.augmentation, 70, 32, generator(3, "augmentation", epoch))
        again = generator(3, "augmentation", epoch)
        flips = torch.rand(70, generator=again) < 0.5
        angles = (torch.rand(70, generator=again, dtype=torch.float64) * 2 - 1) * 20
        losses = []
        for rows, batch in batches(settings, epoch):
            drawn = zip(flips[batch], angles[batch].tolist(), draws.offset[batch].tolist(), strict=True)
            pairs = zip(TRAIN.images[rows], drawn, strict=True)
            pixels = torch.stack([torchvision_augment(image, *draw, 4) for image, draw in pairs])
            images = tv.normalize(pixels / 255, *STATISTICS)
            losses.append(plain_step(model, optimizer, images, TRAIN.labels[rows]))
        tolerance = (1e-4, 5e-3)[epoch]  # Adam magnifies rounding
        assert record["train_loss"] == pytest.approx(np.mean(losses), rel=tolerance)
        model.eval()
        with torch.no_grad():
            logits = model(tv.normalize(VAL.images / 255, *STATISTICS))
        assert record["val_loss"] == pytest.approx(cross_entropy(logits, VAL.labels).item(), rel=5e-3)
        assert record["val_accuracy"] == pytest.approx((logits.argmax(1) == VAL.labels).float().mean().item())


def test_the_reference_recipe_is_untouched_by_the_options() -> None:
    """Bit for bit what a loop that knows none of them gives."""
    given: Any = {"lr": 0.002, "betas": (0.8, 0.95), "weight_decay": 0.05}  # none of them PyTorch's default
    settings = config(epochs=2, optimizer=OPTIMIZER | given)
    ours, plain = run(settings), new_state(settings, 3, CPU)
    optimizer = torch.optim.AdamW(plain.model.parameters(), **given, fused=True)
    normalization = build_normalization(settings.normalization, CPU)
    for epoch in range(2):
        draws = sample(settings.augmentation, 70, 32, generator(3, "augmentation", epoch))
        for rows, batch in batches(settings, epoch):
            images = augment(TRAIN.channels_last().images[rows], draws.select(batch), 4)
            plain_step(plain.model, optimizer, normalization(images), TRAIN.labels[rows])
    assert bits(plain.model.state_dict()) == bits(ours.model.state_dict())


def test_the_learning_rate_follows_the_schedule() -> None:
    settings = config(epochs=4, schedule={"shape": "cosine", "warmup": 0.25})
    rates = [record["lr"] for record in run(settings).history]  # of the last of each epoch's four steps
    falling = [0.002 * (1 + np.cos(np.pi * step / 12)) / 2 for step in (3, 7, 11)]
    assert rates == pytest.approx([0.002, *falling])


def test_the_average_is_what_is_validated_and_kept() -> None:
    settings, done = config(epochs=3, ema_decay=0.5, all_images=True), 0  # the last epoch is kept
    state = new_state(settings, 3, CPU)
    assert state.ema is not None
    average = copy.deepcopy(state.model.state_dict())
    for _ in training(state, settings):
        if 4 * state.epoch + state.step > done:  # a step, no validation
            decay = min(0.5, (1 + done) / (10 + done))  # rises: the start is to be forgotten soon
            for name, tensor in state.model.state_dict().items():
                if tensor.is_floating_point():
                    average[name] = decay * average[name] + (1 - decay) * tensor
                    torch.testing.assert_close(state.ema.state_dict()[name], average[name], msg=name)
            done += 1
    plain, last = bits(run(config(epochs=3)).model.state_dict()), bits(state.model.state_dict())
    assert (plain, done) == (last, 12), "averaging does not change training"
    assert bits(state.best_weights) == bits(state.ema.state_dict())
    normalization = build_normalization(settings.normalization, CPU)
    logits = predict_all(state.ema, [VAL.images], normalization, torch.float32)
    assert cross_entropy(logits, VAL.labels).item() == pytest.approx(state.history[-1]["val_loss"], rel=1e-4)


@pytest.mark.parametrize("decay_all", [True, False])
def test_batch_norms_and_biases_can_be_spared_the_decay(decay_all: bool) -> None:
    settings = config(optimizer=OPTIMIZER | {"lr": 0.02, "weight_decay": 0.5, "decay_all": decay_all})
    state = new_state(settings, 3, CPU)
    before = {name: tensor.detach().clone() for name, tensor in state.model.named_parameters()}
    assert state.optimizer.param_groups[0]["fused"]
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    for name, tensor in state.model.named_parameters():
        decayed = decay_all or "conv" in name or "downsample.0" in name or name == "fc.weight"
        expected = before[name] * (1 - 0.02 * 0.5) if decayed else before[name]
        torch.testing.assert_close(tensor.detach(), expected, rtol=1e-6, atol=0, msg=name)


def test_without_validation_images_the_last_epoch_is_kept() -> None:
    settings = config(epochs=4, all_images=True, patience=1, optimizer=OPTIMIZER | {"lr": 0.05})
    state = run(settings)
    assert summary(state, settings)["best_epoch"] == 4
    assert bits(state.best_weights) == bits(state.model.state_dict())


def start(config: TrainConfig, target: torch.device, dtype: torch.dtype) -> TrainState:
    state = new_state(config, 3, target, dtype)
    if dtype == torch.float16:  # falls after the first step, rises after two good ones
        state.scaler = torch.amp.GradScaler(target.type, init_scale=2.0**40, growth_interval=2)
    return state


# An epoch has seven yields: four steps, two validation batches, the record.
@pytest.mark.parametrize(
    ("compiled", "options", "dtype", "stops"),
    [
        pytest.param(False, EVERYTHING, torch.float32, range(14), id="eager-everything"),
        pytest.param(False, {}, torch.bfloat16, (1, 4, 6), id="eager-bfloat16"),
        pytest.param(False, EVERYTHING, torch.float16, (0, 5), id="eager-float16"),
        pytest.param(True, EVERYTHING, torch.bfloat16, (1, 4, 12), id="compiled", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_goes_on_from_any_yield_equals_the_unbroken_run(
    device: str, compiled: bool, options: dict[str, Any], dtype: torch.dtype, stops: Sequence[int]
) -> None:
    settings, target = config(epochs=2, **options), torch.device(device)
    unbroken, states, scales = start(settings, target, dtype), [], set()
    for state, _ in training(unbroken, settings, dtype, compiled):
        states.append(io.BytesIO())
        torch.save(state.state_dict(), states[-1])
        scales.add(state.scaler.get_scale())
    assert len(states) == 2 * (4 + 2 + 1)
    assert (len(scales) > 2) == (dtype == torch.float16), "the scale falls and rises"
    for stop in stops:
        resumed = start(settings, target, dtype)
        states[stop].seek(0)
        resumed.load_state_dict(torch.load(states[stop], weights_only=True, map_location="cpu"))  # noqa: TID251
        for _ in training(resumed, settings, dtype, compiled):
            pass
        assert bits(resumed.state_dict()) == bits(unbroken.state_dict()), stop


def test_float16_learns_as_float32_does() -> None:
    full, half = (run(config(epochs=2), dtype=one) for one in (torch.float32, torch.float16))
    assert half.history[-1]["train_loss"] == pytest.approx(full.history[-1]["train_loss"], rel=0.1)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert not new_state(config(), 3, CPU, torch.bfloat16).scaler.is_enabled(), "it needs no scale"


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_training_equals_eager_training_within_rounding(device: str) -> None:
    eager, compiled = (run(config(epochs=2, **EVERYTHING), device, compiled) for compiled in (False, True))
    assert compiled.history[0] == pytest.approx(eager.history[0], rel=1e-3)
    assert compiled.history[1] == pytest.approx(eager.history[1], rel=1e-2)  # Adam magnifies rounding
    assert compiled.best_weights.keys() == eager.best_weights.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradient_of_a_step_are_those_of_a_plain_one_in_float64(
    device: str, compiled: bool, dtype: torch.dtype
) -> None:
    settings, target = config(), torch.device(device)
    first = torch.arange(16)  # a batch of `fit`, so the compiled code is the same, too
    images = TRAIN.channels_last().select(first).to(target)
    draws = sample(settings.augmentation, 70, 32, generator(0, "a")).select(first).to(target)
    normalization = build_normalization(settings.normalization, target)

    def gradient(model: nn.Module) -> Tensor:
        return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])

    plain = new_state(settings, 3, target).model.double().to(memory_format=torch.contiguous_format)
    pixels = normalization(augment(images.images, draws, 4)).double().contiguous()
    expected = cross_entropy(plain(pixels), images.labels)
    expected.backward()

    model = new_state(settings, 3, target).model.train()
    step = StepLoss(model, settings, normalization, dtype)
    if compiled:
        step.compile(fullgraph=True, dynamic=False)
    loss, totals = step(images, draws, None)
    loss.backward()
    assert totals[0] == loss.detach()
    assert {b.dtype for name, b in model.named_buffers() if "running" in name} == {torch.float32}
    half = dtype == torch.bfloat16
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3 if half else 1e-5)
    error = (gradient(model) - gradient(plain)).norm() / gradient(plain).norm()
    assert error < (0.25 if half else 0.02)


def test_on_a_gpu_every_tensor_of_a_step_and_of_validation_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: fake tensors have no content, but a device, and refuse to meet those of another one."""
    settings = config(mixing={"cutmix": 0.5, "mixup": 0.5, "plain_epochs": 0}, ema_decay=0.9)
    state, gpu = new_state(settings, 3, CPU), torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (*state.model.modules(), *(state.ema or nn.Module()).modules()):
            for name, tensor in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(mode.from_tensor(tensor).to(gpu).detach())
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = mode.from_tensor(buffer).to(gpu)
        state.optimizer = build_optimizer(state.model, settings.optimizer)
        state.epoch_sums = torch.zeros(2, device=gpu)

        def backward(loss: Tensor) -> None:  # the real one asks for a CUDA context
            assert loss.device.type == "cuda"
            for weight in state.model.parameters():
                weight.grad = torch.zeros_like(weight)

        monkeypatch.setattr(Tensor, "backward", backward)
        images = Images(torch.zeros(70, 3, 32, 32, dtype=torch.uint8), torch.zeros(70, dtype=torch.int64))
        next(fit(state, settings, images.to(gpu), images.to(gpu), torch.float32))
        normalization = build_normalization(settings.normalization, gpu)
        (logits,) = predict(state.model, [images.images], normalization, torch.float32)
    assert (logits.device.type, state.step) == ("cuda", 1)


def test_a_network_that_draws_random_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state(config(), 3, torch.device("cpu"))
    plain = state.model.forward
    monkeypatch.setattr(state.model, "forward", lambda x: dropout(plain(x), 0.1))
    with pytest.raises(UserError, match="draws from PyTorch's global generator"):
        list(training(state, config()))
    assert state.step == 1


def test_the_kept_weights_are_those_of_the_first_best_epoch() -> None:
    settings, weights = config(epochs=4), []
    state, labels = new_state(settings, 3, CPU), torch.ones_like(VAL.labels)
    state.model.get_parameter("fc.bias").data[1:] -= 1e4  # every answer is class 0
    for _, record in fit(state, settings, TRAIN, Images(VAL.images, labels), torch.float32):
        if record:
            weights.append(bits(state.model.state_dict()))
            labels[:35] = int(len(weights) == 3)  # half of them right in epochs 2 and 3
    assert [record["val_accuracy"] for record in state.history] == [0, 0.5, 0.5, 0]
    assert summary(state, settings)["best_epoch"] == 2
    assert bits(state.best_weights) == weights[1]
    assert weights[1] != weights[2]


def test_training_stops_after_the_budget_or_its_patience() -> None:
    settings, patience = config(epochs=5, patience=2), "no better validation accuracy in 2 epochs"
    for accuracies, reason in (
        ((0.3, 0.2), None),
        ((0.3, 0.2, 0.3), patience),
        ((0.3, 0.2, 0.4, 0.1), None),
        ((0.1, 0.2, 0.3, 0.4, 0.5), "epoch budget spent"),
    ):
        state = new_state(settings, 3, CPU)
        state.epoch = len(accuracies)
        state.history = [{"epoch": 1 + i, "val_accuracy": value} for i, value in enumerate(accuracies)]
        assert stop_reason(state, settings) == reason
        assert (next(training(state, settings), None) is None) == (reason is not None), "and fit stops"
