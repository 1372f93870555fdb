"""Measure the trained network on the test images and show where it errs."""

from functools import partial

from stages import command


def main() -> None:
    # Here, not above, so that `--help` does not wait for PyTorch.
    import torch

    from cifar_resnet import device, evaluation, figures, inference
    from cifar_resnet.classifier import read_classifier
    from stages import files, gpus

    config = files.read_params("evaluate", evaluation.EvaluateConfig)
    device.make_deterministic(True)
    target = gpus.take(config.device)
    dtype = device.autocast_dtype(config.precision, target)
    with files.naming_remedy("train"):
        model, normalization, class_names = read_classifier(files.MODEL, target)
    test = files.open_tensors(files.tensors_path("test"))
    if test.about["classes"] != class_names:
        raise ValueError(
            f"{files.MODEL} was trained on {class_names}, the test images are of {test.about['classes']}"
        )
    labels = torch.cat(list(test.batches("labels", config.batch_size)))
    with device.naming_memory("evaluate", config.batch_size):
        batches = test.batches("images", config.batch_size)
        logits = inference.predict_all(model, batches, normalization, dtype)
        metrics = evaluation.evaluate(logits, labels, class_names)
        if config.flip:
            mirrored = (images.flip(3) for images in test.batches("images", config.batch_size))
            both = logits + inference.predict_all(model, mirrored, normalization, dtype)
            flipped = evaluation.evaluate(both / 2, labels, class_names)
            metrics |= {f"{name}_with_flip": flipped[name] for name in ("accuracy", "loss")}
    known = files.read_duplicates()
    metrics["accuracy_without_near_duplicates"] = evaluation.accuracy_without(known, logits, labels)
    files.write_metrics("test", metrics)
    probabilities = logits.double().softmax(1)  # as the calibration error is computed
    predictions = evaluation.predictions(logits, labels, class_names)
    files.write_table("predictions", predictions)
    files.write_table("reliability", evaluation.reliability(probabilities, labels))
    per_class = metrics["per_class_accuracy"].items()
    files.write_table("per_class", [{"class": name, "accuracy": accuracy} for name, accuracy in per_class])
    matrix = evaluation.confusion_matrix(logits.argmax(1), labels, len(class_names))
    files.write_figure("curves", figures.curves(files.read_table("history")))
    files.write_figure("confusion", figures.confusion(matrix, class_names))
    images = partial(test.rows, "images")
    files.write_figure("mistakes", figures.mistakes(images, labels, probabilities, class_names))
    print(f"test accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4f}")
    print("labels to look at again: the least probable ones of plots/predictions.csv")
    for row in predictions[:5]:
        print("  test image {index}: labelled {label}, predicted {prediction} ({confidence})".format(**row))


if __name__ == "__main__":
    command.run(main, __doc__)
