"""The training loop against a plain one, and its promise that a run can go on from any yield."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar_resnet.images import Images
from cifar_resnet.network.inference import build_normalization, predict_all
from cifar_resnet.network.model import restore_model
from cifar_resnet.randomness import generator
from cifar_resnet.training.augmentation import augment, draw
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.loop import TrainLoss, fit
from cifar_resnet.training.state import Record, TrainState, new_state, stop_reason, summary

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WAYS = [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=pytest.mark.slow)]
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "epochs": 3,
    "batch_size": 16,
    "patience": 10,
    "device": "auto",
    "processes": 1,
    "precision": "float32",
    "deterministic": True,
    "compile": False,
    "all_images": False,
    "zero_gamma": False,
    "label_smoothing": 0,
    "ema_decay": 0,
    "model": {"name": "resnet", "width": 4, "blocks": (1, 1, 1, 1)},
    "optimizer": {"lr": 0.002, "betas": (0.9, 0.999), "weight_decay": 0.05, "decay_all": True},
    "augmentation": {"flip": 0.5, "rotation": 20, "padding": 4, "cutout": 0},
    "schedule": {"shape": "constant", "warmup": 0},
    "mixing": {"cutmix": 0, "mixup": 0, "plain_epochs": 0},
    "normalization": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
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


def finish(
    state: TrainState, config: TrainConfig, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> TrainState:
    """Train until nothing is left to do."""
    target = state.totals.device
    for _ in fit(state, config, TRAIN.to(target), VAL.to(target), dtype, compiled):
        pass
    return state


def run(config: TrainConfig, device: str = "cpu", compiled: bool = False) -> TrainState:
    return finish(new_state(config, 3, torch.device(device)), config, compiled=compiled)


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


def pil_batch(images: Tensor, angles: Tensor, flips: Tensor, offsets: Tensor) -> Tensor:
    """The usual per-image pipeline on the same draws."""
    batch = []
    for image, angle, flip, (top, left) in zip(images, angles, flips, offsets.tolist(), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture = tv.hflip(picture) if flip else picture
        picture = tv.crop(tv.pad(tv.rotate(picture, float(angle)), [4]), top, left, 32, 32)
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        batch.append(tv.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return torch.stack(batch)


def test_two_epochs_equal_a_plain_loop_over_pil_images() -> None:
    settings = config(epochs=2)
    ours = run(settings)

    model = new_state(settings, 3, torch.device("cpu")).model.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05, foreach=False, fused=False)
    for epoch, record in enumerate(ours.history):
        draws = draw(settings.augmentation, 70, 32, generator(3, "augmentation", epoch))
        again = generator(3, "augmentation", epoch)
        flips = torch.rand(70, generator=again) < 0.5
        angles = (torch.rand(70, generator=again, dtype=torch.float64) * 2 - 1) * 20
        losses = []
        for rows, batch in batches(settings, epoch):
            images = pil_batch(TRAIN.images[rows], angles[batch], flips[batch], draws.offset[batch])
            losses.append(plain_step(model, optimizer, images, TRAIN.labels[rows]))
        tolerance = (1e-4, 5e-3)[epoch]  # Adam magnifies rounding
        assert record["train_loss"] == pytest.approx(np.mean(losses), rel=tolerance)
        model.eval()
        with torch.no_grad():
            logits = model(tv.normalize(VAL.images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        assert record["val_loss"] == pytest.approx(cross_entropy(logits, VAL.labels).item(), rel=5e-3)
        assert record["val_accuracy"] == pytest.approx((logits.argmax(1) == VAL.labels).float().mean().item())


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_repeats_bit_for_bit_and_leaves_the_global_generator_alone(device: str) -> None:
    before = torch.get_rng_state()
    first, second = run(config(), device), run(config(), device)
    assert torch.equal(before, torch.get_rng_state())
    assert first.history == second.history
    assert run(config(seed=4), device).history != first.history
    for name, tensor in first.best_weights.items():
        assert torch.equal(tensor, second.best_weights[name]), name


def saved_and_restored(state: TrainState, config: TrainConfig) -> TrainState:
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    buffer.seek(0)
    restored = new_state(config, 3, state.totals.device)
    restored.load_state_dict(torch.load(buffer, weights_only=True, map_location="cpu"))  # noqa: TID251
    return restored


def test_the_reference_recipe_is_untouched_by_the_options() -> None:
    """Bit for bit what a loop that knows none of them gives."""
    settings = config(epochs=2)
    ours, plain = run(settings), new_state(settings, 3, torch.device("cpu"))
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=0.002, weight_decay=0.05, fused=True)
    normalization = build_normalization(settings.normalization, torch.device("cpu"))
    for epoch in range(2):
        draws = draw(settings.augmentation, 70, 32, generator(3, "augmentation", epoch))
        for rows, batch in batches(settings, epoch):
            images = augment(TRAIN.channels_last().images[rows], draws.rows(batch), 4)
            plain_step(plain.model, optimizer, normalization(images), TRAIN.labels[rows])
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, ours.model.state_dict()[name]), name


def test_the_learning_rate_follows_the_schedule() -> None:
    settings = config(epochs=4, schedule={"shape": "cosine", "warmup": 0.25})
    rates = [record["lr"] for record in run(settings).history]  # of the last of each epoch's four steps
    falling = [0.002 * (1 + np.cos(np.pi * step / 12)) / 2 for step in (3, 7, 11)]
    assert rates == pytest.approx([0.002, *falling])


def test_the_average_is_what_is_validated_and_kept() -> None:
    settings = config(epochs=3, ema_decay=0.9)
    state = run(settings)
    assert state.average is not None
    plain = run(config(epochs=3))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name]), "averaging does not change training"
    averaged, last = (model.state_dict()["fc.weight"] for model in (state.average, state.model))
    assert not torch.equal(averaged, last)
    kept = restore_model(settings.model, 3, state.best_weights)
    normalization = build_normalization(settings.normalization, torch.device("cpu"))
    logits = predict_all(kept, [VAL.images], normalization, torch.float32)
    assert cross_entropy(logits, VAL.labels).item() == pytest.approx(
        state.kept(settings)["val_loss"], rel=1e-4
    )


def test_without_validation_images_the_last_epoch_is_kept() -> None:
    settings = config(epochs=4, all_images=True, patience=1, optimizer=SETTINGS["optimizer"] | {"lr": 0.05})
    state = run(settings)
    assert summary(state, settings)["best_epoch"] == 4
    for name, tensor in state.best_weights.items():
        assert torch.equal(tensor, state.model.state_dict()[name]), name


EVERYTHING: dict[str, Any] = {
    "zero_gamma": True,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "schedule": {"shape": "cosine", "warmup": 0.2},
    "optimizer": SETTINGS["optimizer"] | {"decay_all": False},
    "augmentation": SETTINGS["augmentation"] | {"cutout": 8},
    "mixing": {"cutmix": 0.5, "mixup": 0.3, "plain_epochs": 1},
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["reference", "everything"])
@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_goes_on_from_any_yield_equals_the_unbroken_run(
    device: str, compiled: bool, options: dict[str, Any]
) -> None:
    settings, target = config(epochs=2, **options), torch.device(device)
    unbroken = run(settings, device, compiled)
    train, val = TRAIN.to(target), VAL.to(target)
    loop = fit(new_state(settings, 3, target), settings, train, val, torch.float32, compiled)
    yields = sum(1 for _ in loop)
    assert yields == 2 * (4 + 2 + 1)  # steps, validation batches, the epoch's record
    # Compiled, a run takes seconds. Inside an epoch, inside validation; after the record.
    short = (7, 13) if compiled and options else (2, 5) if compiled else (2, 5, 7)
    stops = range(1, yields + 1) if options and not compiled else short
    for stop in stops:
        state = new_state(settings, 3, target)
        loop = fit(state, settings, train, val, torch.float32, compiled)
        for _, _ in zip(range(stop), loop, strict=False):
            pass
        restored = finish(saved_and_restored(state, settings), settings, compiled=compiled)
        assert restored.history == unbroken.history
        for name, tensor in restored.best_weights.items():
            assert torch.equal(tensor, unbroken.best_weights[name]), (stop, name)


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
    images = TRAIN.channels_last().rows(first).to(target)
    draws = draw(settings.augmentation, 70, 32, generator(0, "a")).rows(first).to(target)
    normalization = build_normalization(settings.normalization, target)

    def gradient(model: torch.nn.Module) -> Tensor:
        return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])

    plain = new_state(settings, 3, target).model.double().to(memory_format=torch.contiguous_format)
    pixels = normalization(augment(images.images, draws, 4)).double().contiguous()
    expected = cross_entropy(plain(pixels), images.labels)
    expected.backward()

    model = new_state(settings, 3, target).model.train()
    step = TrainLoss(model, settings, normalization, dtype)
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


def test_the_kept_weights_are_those_of_the_best_epoch() -> None:
    best = []
    for seed in (5, 6):  # two epochs of equal accuracy; the last epoch not the best one
        settings = config(seed=seed, epochs=6, optimizer=SETTINGS["optimizer"] | {"lr": 0.2})
        state = new_state(settings, 3, torch.device("cpu"))
        weights: dict[float, dict[str, Tensor]] = {}
        for _, record in fit(state, settings, TRAIN, VAL, torch.float32):
            if record:
                weights[record["epoch"]] = {name: t.clone() for name, t in state.model.state_dict().items()}
        accuracies = [record["val_accuracy"] for record in state.history]
        best.append(1 + int(np.argmax(accuracies)))  # first of equals
        assert summary(state, settings)["best_epoch"] == best[-1]
        for name, tensor in state.best_weights.items():
            assert torch.equal(tensor, weights[best[-1]][name]), name
    assert min(best) < 6, "choose settings whose last epoch is not always the best one"


def record(epoch: int, val_accuracy: float) -> Record:
    return {"epoch": epoch, "val_accuracy": val_accuracy}


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ([0.3, 0.2], None),
        ([0.3, 0.2, 0.3], "no better validation accuracy in 2 epochs"),
        ([0.3, 0.2, 0.4, 0.1], None),
        ([0.1, 0.2, 0.3, 0.4, 0.5], "epoch budget spent"),
    ],
)
def test_training_stops_after_the_budget_or_its_patience(accuracies: list[float], reason: str | None) -> None:
    settings = config(epochs=5, patience=2)
    state = new_state(settings, 3, torch.device("cpu"))
    state.history = [record(epoch, value) for epoch, value in enumerate(accuracies, start=1)]
    state.epoch = len(accuracies)
    assert stop_reason(state, settings) == reason


def test_patience_ends_a_run_that_learns_nothing() -> None:
    settings = config(epochs=9, patience=2, optimizer=SETTINGS["optimizer"] | {"lr": 1e-12})
    state = run(settings)
    assert state.epoch == state.kept(settings)["epoch"] + 2 < 9
