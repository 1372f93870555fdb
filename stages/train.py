"""Train the network, keep its best epoch on the validation images, and resume a stopped run.

A signal is noted (`StopRequest`); the step ends; bar and, after an epoch, history are updated; all processes
agree; the checkpoint is saved; `Progress` logs the end; handlers and lock are released. A run ends by:

| ending | checkpoint | outputs | status |
|---|---|---|---|
| the last epoch | kept until dvc.lock has the model | written | 0 |
| SIGINT, SIGTERM, SIGHUP | saved now | none | 128 + number; 1 if the save failed |
| a second signal | the last one | none | 128 + number |
| a user's error, out of memory, loss not finite | the last one | none | 1, one line |
| a bug | the last one | none | 1, traceback |
| SIGKILL, power cut | the last one | none | |
| params.yaml or code edited meanwhile | the final one | none | 1, one line, said at the epoch's end already |
"""

import pandas as pd

from cifar_resnet import files, numerics, params
from cifar_resnet.images import Images, concatenate
from cifar_resnet.network.classifier import model_metadata
from cifar_resnet.process import checkpoint, command, launch, machine, memory, progress, resume, stopping
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import new_state, summary


def main() -> None:
    config = params.read("train", TrainConfig)
    if launch.must_start(config.processes):
        launch.start_processes(config.processes, config.device)
        return
    inputs = resume.Inputs(config)
    chosen = numerics.choose(config.device, config.precision, config.deterministic, config.compile)
    device, dtype, compiled, _ = chosen
    memory.keep(device)
    facts = machine.announce(chosen, config.processes)
    train_tensors, about = files.read_tensors(files.tensors_path("train"))
    val_tensors, val_about = files.read_tensors(files.tensors_path("val"))
    train, val = Images(**train_tensors), Images(**val_tensors)
    train = concatenate([train, val]) if config.all_images else train
    folder = resume.run_folder(config, [about["sha256"], val_about["sha256"]], chosen)
    with (
        launch.join(config.processes, device) as world,
        resume.hold(folder, config, world),
        stopping.StopRequest(world) as stop,
        memory.explain_out_of_memory("train", config.batch_size),
    ):
        state = new_state(config, len(about["classes"]), device, dtype)
        resume.restore(state, folder, world)
        steps = memory.trim_after(
            fit(state, config, train.to(device), val.to(device), dtype, compiled, world)
        )
        if world.rank:  # the first process alone saves, shows and writes
            stop.run_until_stopped(steps)
            return
        saver = checkpoint.Saver(folder)
        with progress.Progress(state, config, len(train.labels), facts) as shown:
            for _, record in steps:
                shown.update(state, record)
                if record:
                    files.write_table("history", pd.DataFrame(state.history))
                    inputs.warn()
                if signal := stop.signal():
                    saver.save(state)
                    raise SystemExit(128 + signal)
                saver.save_if_due(state, epoch_ended=bool(record))
        saver.try_to_save(state)
        inputs.check()
        metadata = model_metadata(
            config.model, config.normalization, about["classes"], train.images.shape[-1]
        )
        files.write_tensors(files.MODEL, state.best_weights, metadata)
        files.write_table("history", pd.DataFrame(state.history))
        files.write_metrics("train", summary(state, config))
        resume.finish(folder)


if __name__ == "__main__":
    command.run(main, __doc__)
