"""Write the trained network as ONNX, check it against PyTorch, and write the model card."""

from stages import command

BATCH = 50  # images run at once; the result does not depend on it


def main() -> None:
    # Here, not above, so that `--help` does not wait for PyTorch.
    import torch

    from cifar_resnet import card, onnx_export
    from cifar_resnet.classifier import read_classifier
    from cifar_resnet.inference import predict_all
    from cifar_resnet.tensorfile import TensorFile
    from stages import files

    config = files.read_params("export", onnx_export.ExportConfig)
    with files.naming_remedy("train"):
        model, normalization, class_names = read_classifier(files.MODEL, torch.device("cpu"))
        about = TensorFile(files.MODEL).about
    images = next(files.open_tensors(files.tensors_path("test")).batches("images", config.images))
    metrics = {name: files.read_metrics(name) for name in ("data", "train", "test")}
    metadata = {
        "class_names": class_names,
        "normalization": about["normalization"],
        "model_sha256": files.sha256(files.MODEL),
    }
    proto = onnx_export.export_onnx(model, normalization, metadata)
    content = proto.SerializeToString()
    batches = images.split(BATCH)
    logits = onnx_export.predict_onnx(content, batches)
    expected = predict_all(model, batches, normalization, torch.float32)
    metrics["export"] = {
        "images": len(images),
        **onnx_export.compare(logits, expected),
        "opset": proto.opset_import[0].version,
        "bytes": len(content),
    }
    files.write_bytes(files.ONNX, content)
    files.write_metrics("export", metrics["export"])
    digests = {path.name: files.sha256(path) for path in (files.MODEL, files.ONNX)}
    dataset, hyperparameters = files.read_section("fetch")["dataset"], files.read_section("train")
    text = card.model_card(dataset, hyperparameters, about, metrics, digests)
    files.write_bytes(files.CARD, text.encode())
    same, difference = (metrics["export"][name] for name in ("top1_agreement", "max_abs_logit_difference"))
    print(f"{files.ONNX}: same top class as PyTorch for {same:.2%}, logits within {difference:.1e}")


if __name__ == "__main__":
    command.run(main, __doc__)
