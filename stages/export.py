"""Write the trained network as ONNX, check it against PyTorch, and write the model card."""

import torch

from cifar_resnet import files, params
from cifar_resnet.network.classifier import read_classifier
from cifar_resnet.network.inference import predict_all
from cifar_resnet.process import command
from cifar_resnet.serving import card, onnx_export

BATCH = 50  # images run at once; the result does not depend on it


def main() -> None:
    config = params.read("export", onnx_export.ExportConfig)
    model, normalization, class_names, size = read_classifier(files.MODEL, torch.device("cpu"))
    _, about = files.read_tensors(files.MODEL)
    images = files.read_tensors(files.tensors_path("test"))[0]["images"][: config.images]
    metadata = {
        "class_names": class_names,
        "normalization": about["normalization"],
        "model_sha256": files.sha256(files.MODEL),
    }
    proto = onnx_export.export_onnx(model, normalization, metadata, size)
    content = proto.SerializeToString()
    batches = images.split(BATCH)
    logits = onnx_export.predict_onnx(content, batches)
    expected = predict_all(model, batches, normalization, torch.float32)
    metrics = {
        "onnx_images": len(images),
        **onnx_export.compare(logits, expected),
        "onnx_opset": proto.opset_import[0].version,
        "onnx_bytes": len(content),
    }
    files.write_bytes(files.ONNX, content)
    files.write_metrics("export", metrics)
    results = files.read_metrics("data") | files.read_metrics("train") | files.read_metrics("test")
    text = card.model_card(
        network=model,
        dataset=params.read_section("fetch")["dataset"],
        hyperparameters=params.read_section("train"),
        about=about,
        results=results | metrics,
        per_class=files.read_table("per_class"),
        digests={path.name: files.sha256(path) for path in (files.MODEL, files.ONNX)},
    )
    files.write_bytes(files.CARD, text.encode())
    print(
        f"{files.ONNX}: same top class as PyTorch for {metrics['onnx_agreement']:.2%},"
        f" logits within {metrics['onnx_logit_difference']:.1e}"
    )


if __name__ == "__main__":
    command.run(main, __doc__)
