"""Train the network, keep its best epoch on the validation images, and go on where a stopped run was."""

import time
from pathlib import Path

from cifar_resnet import checkpoint, device, training
from cifar_resnet.dataset import Images
from stages import command, files
from stages.progress import Progress

SAVE_SECONDS = 300  # between saves inside a long epoch: the most work that a kill can cost


def main() -> None:
    config = files.read_params("train", training.TrainConfig)
    device.make_deterministic(config.deterministic)
    target = device.select_device(config.device)
    dtype = device.autocast_dtype(config.precision, target)
    train, about = files.read_tensors(files.tensors_path("train"))
    val, val_about = files.read_tensors(files.tensors_path("val"))
    run = {
        "params": config.model_dump(mode="json"),
        "data": [about["sha256"], val_about["sha256"]],
        "code": command.code_digest(),
        "hardware": device.fingerprint(target),
    }
    folder = files.CACHE / "resume" / checkpoint.run_key(run)
    with checkpoint.hold(folder), command.StopRequest() as stop:
        with device.naming_memory("train", config.batch_size):
            state = training.new_state(config, len(about["classes"]), target)
            resume(state, folder)
            loop = training.fit(state, config, Images(**train).to(target), Images(**val).to(target), dtype)
            saved_at = time.monotonic()
            with Progress(state, config, len(train["labels"])) as progress:
                for _, record in loop:
                    progress.update(state, record)
                    if record:
                        files.write_table("history", state.history)
                    if record or stop.signal or time.monotonic() > saved_at + SAVE_SECONDS:
                        checkpoint.save(folder, state.state_dict())
                        saved_at = time.monotonic()
                    if stop.signal:
                        raise SystemExit(128 + stop.signal)
        if files.read_params("train", training.TrainConfig) != config:
            raise ValueError(
                "params.yaml's train section was changed while training ran, so the result is not of what it"
                " says; with the old values back `dvc repro` ends at once (the state is kept)"
            )
        made_by = config.model_dump(mode="json", include={"model", "normalization"})
        files.write_tensors(files.MODEL, state.best_weights, made_by | {"classes": about["classes"]})
        files.write_table("history", state.history)
        files.write_metrics("train", training.summary(state, config))
        checkpoint.remove(folder)


def resume(state: training.TrainState, folder: Path) -> None:
    """Restore the newest undamaged state in `folder`, if there is one, and say so."""
    saved, damaged = checkpoint.load(folder)
    for name in damaged:
        print(f"the saved state {name} is damaged (its SHA-256 does not fit); going back to the one before")
    if saved:
        state.load_state_dict(saved)
        print(f"resuming this run after {state.epoch} epochs and {state.step} steps, found in {folder}")


if __name__ == "__main__":
    command.run(main, __doc__)
