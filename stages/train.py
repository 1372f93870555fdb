"""Train the network, keep its best epoch on the validation images, and go on where a stopped run was."""

from stages import command


def main() -> None:
    # Here, not above, so that `--help` does not wait for PyTorch.
    from cifar_resnet import checkpoint, device, run, training
    from cifar_resnet.dataset import Images, concatenate
    from stages import files, gpus, launch
    from stages.compilation import keep_code, use_compile
    from stages.progress import Progress
    from stages.resume import Keeper, hold, restore, resume_folder
    from stages.stopping import StopRequest

    config = files.read_params("train", run.TrainConfig)
    if launch.is_launcher(config.processes):
        launch.start(config.processes, config.device)
        return
    keep_code()
    device.make_deterministic(config.deterministic)
    target = gpus.take(config.device)
    dtype = device.autocast_dtype(config.precision, target)
    train_tensors, about = files.read_tensors(files.tensors_path("train"))
    val_tensors, val_about = files.read_tensors(files.tensors_path("val"))
    train, val = Images(**train_tensors), Images(**val_tensors)
    train = concatenate([train, val]) if config.all_images else train
    compiled = use_compile(config.compile, target)
    folder = resume_folder(config, [about["sha256"], val_about["sha256"]], target, compiled)
    with launch.join(config.processes, target) as world, hold(folder, world), StopRequest(world) as stop:
        with device.naming_memory("train", config.batch_size), Keeper(folder) as keeper:
            state = run.new_state(config, len(about["classes"]), target)
            restore(state, folder, world)
            loop = training.fit(state, config, train.to(target), val.to(target), dtype, compiled, world)
            if world.rank:  # the first process alone saves, shows and writes
                stop.follow(loop)
                return
            with Progress(state, config, len(train.labels)) as progress:
                for _, record in loop:
                    progress.update(state, record)
                    if record:
                        files.write_table("history", state.history)
                    ending = stop.signal()
                    keeper.keep(state, bool(record), bool(ending))
                    if ending:
                        raise SystemExit(128 + ending)
        if files.read_params("train", run.TrainConfig) != config:
            raise ValueError(
                "params.yaml's train section was changed while training ran, so the result is not of what it"
                " says; with the old values back `dvc repro` ends at once (the state is kept)"
            )
        made_by = config.model_dump(mode="json", include={"model", "normalization"})
        files.write_tensors(files.MODEL, state.best_weights, made_by | {"classes": about["classes"]})
        files.write_table("history", state.history)
        files.write_metrics("train", run.summary(state, config))
        checkpoint.remove(folder)


if __name__ == "__main__":
    command.run(main, __doc__)
