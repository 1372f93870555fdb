"""Turn the raw files into tensors, split off the validation images, and describe the data."""

from stages import command


def main() -> None:
    # Here, not above, so that `--help` does not wait for PyTorch.
    from cifar_resnet import dataset, figures
    from cifar_resnet.randomness import generator
    from stages import files

    config = files.read_params("preprocess", dataset.PreprocessConfig)
    class_names = dataset.decode_class_names(files.read_raw(dataset.META))
    train = dataset.concatenate(dataset.decode_batch(files.read_raw(name)) for name in dataset.TRAIN_BATCHES)
    test = dataset.decode_batch(files.read_raw(dataset.TEST_BATCH))
    rest, val = dataset.stratified_split(
        train.labels, config.validation_images, generator(config.seed, "split")
    )
    splits = {"train": train.rows(rest), "val": train.rows(val), "test": test}
    if config.train_images is not None:
        labels, sample = splits["train"].labels, generator(config.seed, "sample")
        _, kept = dataset.stratified_split(labels, config.train_images, sample, "train_images")
        splits["train"] = splits["train"].rows(kept)
    for name, images in splits.items():
        files.write_tensors(files.tensors_path(name), images._asdict(), {"classes": class_names})
    files.write_metrics("data", dataset.describe(splits, class_names))
    files.write_figure("samples", figures.samples(*splits["train"], class_names))
    print(", ".join(f"{len(images.labels):,} {name}" for name, images in splits.items()), "images")


if __name__ == "__main__":
    command.run(main, __doc__)
