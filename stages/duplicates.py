"""Find the test images that are nearly in the training data too, the validation images among it."""

import torch

from cifar_resnet import files, params
from cifar_resnet.data import duplicates, pairs
from cifar_resnet.images import Images, concatenate
from cifar_resnet.process import command


def main() -> None:
    config = params.read("duplicates", duplicates.DuplicatesConfig)
    torch.set_num_threads(1)  # many short operations: two threads took four times the CPU time of one
    splits = [files.read_tensors(files.tensors_path(name)) for name in ("train", "val", "test")]
    class_names = splits[0][1]["classes"]
    train, val, test = (Images(**tensors) for tensors, _ in splits)
    known = concatenate([train, val])
    found = duplicates.find_duplicates(test.images, known.images, config)
    table = pairs.table(found, test.labels, known.labels, class_names)
    files.write_csv(files.DUPLICATES, table)
    metrics = {
        "duplicates": len(table),
        "duplicates_share": len(table) / len(test.labels),
        "duplicates_same_label": int((table["test_label"] == table["train_label"]).sum()),
    }
    files.write_metrics("duplicates", metrics)
    pictures = known.images[found.train]
    pictures = torch.where(found.mirrored[:, None, None, None], pictures.flip(3), pictures)
    files.write_figure("duplicates", pairs.figure(test.images[found.test], pictures, found.score))
    print(f"{len(table)} of {len(test.labels)} test images have a near-duplicate among the training images")


if __name__ == "__main__":
    command.run(main, __doc__)
