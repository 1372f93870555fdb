"""Train the network, keep its best epoch on the validation images, and go on where a stopped run was."""

from cifar_resnet import files
from cifar_resnet.images import Images, concatenate
from cifar_resnet.network import classifier, device
from cifar_resnet.process import command, hardware, launch, memory, progress, resume, stopping
from cifar_resnet.training.config import TrainConfig
from cifar_resnet.training.loop import fit
from cifar_resnet.training.state import history_table, new_state, stop_reason, summary


def main() -> None:
    config = files.read_params("train", TrainConfig)
    if launch.is_launcher(config.processes):
        launch.start(config.processes, config.device)
        return
    inputs = resume.Inputs(config)
    chosen = hardware.prepare(config)
    target, dtype, compiled = chosen
    train_tensors, about = files.read_tensors(files.tensors_path("train"))
    val_tensors, val_about = files.read_tensors(files.tensors_path("val"))
    train, val = Images(**train_tensors), Images(**val_tensors)
    train = concatenate([train, val]) if config.all_images else train
    folder = resume.resume_folder(config, [about["sha256"], val_about["sha256"]], target, dtype, compiled)
    with (
        launch.join(config.processes, target) as world,
        stopping.StopRequest(world) as stop,
        resume.hold(folder, config, world),
    ):
        with device.naming_memory("train", config.batch_size), resume.Keeper(folder, target) as keeper:
            state = new_state(config, len(about["classes"]), target, dtype)
            resume.restore(state, folder, world)
            data = train.to(target), val.to(target)
            steps = memory.trimming(fit(state, config, *data, dtype, compiled, world))
            if world.rank:  # the first process alone saves, shows and writes
                stop.follow(steps)
                return
            with progress.Progress(state, config, len(train.labels), chosen.facts()) as shown:
                for _, record in steps:
                    shown.update(state, record)
                    if record:
                        files.write_table("history", history_table(state))
                        inputs.warn()
                    ending = stop.signal()
                    keeper.keep(state, bool(record), bool(ending or stop_reason(state, config)))
                    if ending:
                        raise SystemExit(128 + ending)
        inputs.check()
        made = config.model, config.normalization, about["classes"], train.images.shape[-1]
        files.write_tensors(files.MODEL, state.best_weights, classifier.description(*made))
        files.write_table("history", history_table(state))
        files.write_metrics("train", summary(state, config))
        resume.finish(folder)


if __name__ == "__main__":
    command.run(main, __doc__)
