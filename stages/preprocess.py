"""Turn the raw files into tensors, split off the validation images, and describe the data."""

from cifar_resnet import figures
from cifar_resnet.dataset import (
    META,
    TEST_BATCH,
    TRAIN_BATCHES,
    PreprocessConfig,
    concatenate,
    decode_batch,
    decode_class_names,
    describe,
    stratified_split,
)
from cifar_resnet.randomness import generator
from stages import command, files


def main() -> None:
    config = files.read_params("preprocess", PreprocessConfig)
    class_names = decode_class_names(files.read_raw(META))
    train = concatenate(decode_batch(files.read_raw(name)) for name in TRAIN_BATCHES)
    test = decode_batch(files.read_raw(TEST_BATCH))
    split = stratified_split(train.labels, config.validation_images, generator(config.seed, "split"))
    splits = {"train": train.rows(split[0]), "val": train.rows(split[1]), "test": test}
    for name, images in splits.items():
        files.write_tensors(files.tensors_path(name), images._asdict(), {"classes": class_names})
    files.write_metrics("data", describe(splits, class_names))
    files.write_figure("samples", figures.samples(*splits["train"], class_names))
    print(", ".join(f"{len(images.labels):,} {name}" for name, images in splits.items()), "images")


if __name__ == "__main__":
    command.run(main, __doc__)
