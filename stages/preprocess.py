"""Turn the raw files into tensors, split off the validation images, and describe the data."""

from cifar_resnet import files, params
from cifar_resnet.data import cifar10, folder, split, summary
from cifar_resnet.process import command
from cifar_resnet.randomness import generator


def main() -> None:
    config = params.read("preprocess", split.PreprocessConfig)
    if files.PICTURES.exists():
        class_names, train, test = folder.read_pictures(files.PICTURES, config.image_size)
    else:
        class_names, train, test = cifar10.read_cifar10(config.image_size)
    rest, val = split.stratified_split(
        train.labels, config.validation_images, generator(config.seed, "split")
    )
    splits = {"train": train.select(rest), "val": train.select(val), "test": test}
    if config.train_images is not None:
        labels, sample = splits["train"].labels, generator(config.seed, "sample")
        _, kept = split.stratified_split(labels, config.train_images, sample, "train_images")
        splits["train"] = splits["train"].select(kept)
    for name, images in splits.items():
        files.write_tensors(files.tensors_path(name), images._asdict(), {"classes": class_names})
    files.write_metrics("data", {f"{name}_images": len(images.labels) for name, images in splits.items()})
    files.write_table("classes", summary.images_per_class(splits, class_names))
    files.write_table("channels", summary.channel_statistics(splits["train"].images))
    files.write_figure("samples", summary.samples(splits["train"], class_names))
    print(", ".join(f"{len(images.labels):,} {name}" for name, images in splits.items()), "images")


if __name__ == "__main__":
    command.run(main, __doc__)
