"""Measure the trained network on the test images and show where it errs."""

from cifar_resnet import files, numerics, params
from cifar_resnet.errors import UserError
from cifar_resnet.evaluation import figures, metrics, subsets
from cifar_resnet.images import Images
from cifar_resnet.network import inference
from cifar_resnet.network.classifier import read_classifier
from cifar_resnet.process import command, memory, runs


def main() -> None:
    config = params.read("evaluate", metrics.EvaluateConfig)
    runs.forget_recorded()
    target, dtype, *_ = numerics.choose(config.device, config.precision)
    memory.keep(target)
    model, normalization, class_names, _ = read_classifier(files.MODEL, target)
    tensors, about = files.read_tensors(files.tensors_path("test"))
    if about["classes"] != class_names:
        raise UserError(f"{files.MODEL} was trained on {class_names}, the images are of {about['classes']}")
    test = Images(**tensors)
    with memory.explain_out_of_memory("evaluate", config.batch_size):
        batches = test.images.split(config.batch_size)
        logits = inference.predict_all(model, batches, normalization, dtype)
        measured = metrics.evaluate(logits, test.labels)
        if config.flip:
            mirrored = (images.flip(3) for images in batches)
            both = logits + inference.predict_all(model, mirrored, normalization, dtype)
            measured["test_accuracy_with_flip"] = metrics.accuracy(both, test.labels)
    excluded = subsets.excluded_indices(
        params.read_section("fetch")["dataset"], files.read_csv(files.DUPLICATES)["test_index"]
    )
    hits = logits.argmax(1) == test.labels
    parts = subsets.accuracies(hits, excluded)
    others = parts["accuracy"][parts["images_left"] == subsets.NEAR_DUPLICATES]
    measured["test_deduplicated"] = float(others.sum())  # 0 without any
    files.write_metrics("test", measured)
    files.write_table("subsets", parts)
    probabilities = logits.double().softmax(1)  # as the calibration error is computed
    matrix = metrics.confusion_matrix(logits.argmax(1), test.labels, len(class_names))
    predictions = metrics.prediction_table(
        logits, test.labels, class_names, excluded.get(subsets.REJECTED, subsets.NONE)
    )
    files.write_table("predictions", predictions)
    files.write_table("reliability", metrics.reliability(probabilities, test.labels))
    files.write_table("per_class", metrics.per_class(matrix, class_names))
    files.write_table("confusions", metrics.confusions(matrix, class_names))
    best_epoch = files.read_metrics("train")["best_epoch"]
    files.write_figure("curves", figures.curves(files.read_table("history"), best_epoch))
    files.write_figure("confusion", figures.confusion(matrix, class_names))
    files.write_figure("mistakes", figures.mistakes(test, probabilities, class_names))
    print(f"test accuracy {measured['test_accuracy']:.2%}, loss {measured['test_loss']:.4f}")
    print("labels to look at again: the least probable ones of plots/predictions.csv")
    print(predictions.head().to_string(index=False))


if __name__ == "__main__":
    command.run(main, __doc__)
