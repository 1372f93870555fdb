"""Find the test images that are nearly in the training data too, the validation images among it."""

from stages import command


def main() -> None:
    # Here, not above, so that `--help` does not wait for PyTorch.
    import torch

    from cifar_resnet import dataset, duplicates, figures
    from stages import files

    config = files.read_params("compare", duplicates.CompareConfig)
    splits = [files.read_tensors(files.tensors_path(name)) for name in ("train", "val", "test")]
    class_names = splits[0][1]["classes"]
    train, val, test = (dataset.Images(**tensors) for tensors, _ in splits)
    known = dataset.concatenate([train, val])
    twins = duplicates.find_twins(test.images, known.images, config)
    rows = [
        {
            "test_index": index,
            "test_label": class_names[test.labels[index]],
            "train_index": twin,  # the validation images count after the training images
            "train_label": class_names[known.labels[twin]],
            "mirrored": mirrored,
            "correlation": f"{correlation:.4f}",
        }
        for index, twin, mirrored, correlation in zip(*(column.tolist() for column in twins), strict=True)
    ]
    files.write_duplicates(rows)
    metrics = {
        "near_duplicates": len(rows),
        "share_of_test_images": len(rows) / len(test.labels),
        "with_the_same_label": sum(row["test_label"] == row["train_label"] for row in rows),
    }
    files.write_metrics("duplicates", metrics)
    pictures = known.images[twins.train]
    pictures = torch.where(twins.mirrored[:, None, None, None], pictures.flip(3), pictures)
    files.write_figure("duplicates", figures.twins(test.images[twins.test], pictures, twins.correlation))
    print(f"{len(rows)} of {len(test.labels)} test images have a near-duplicate among the training images")


if __name__ == "__main__":
    command.run(main, __doc__)
