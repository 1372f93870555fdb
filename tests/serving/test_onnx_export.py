"""The ONNX file computes what the network computes, and says nothing of the machine."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from cifar_resnet.network.inference import NormalizationConfig, build_normalization
from cifar_resnet.network.resnet import ResNet
from cifar_resnet.serving import onnx_export
from tests.serving.conftest import ABOUT, by_hand

NORMALIZATION = build_normalization(NormalizationConfig(**ABOUT["normalization"]), torch.device("cpu"))
METADATA = {"class_names": ["a", "b", "é"], "normalization": ABOUT["normalization"], "model_sha256": "0"}


@pytest.fixture(scope="module")
def exported(model: ResNet) -> onnx.ModelProto:
    return onnx_export.export_onnx(model, NORMALIZATION, METADATA, 32)


def test_any_batch_size_gives_the_networks_logits(model: ResNet, exported: onnx.ModelProto) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (21, 3, 32, 32), dtype=torch.uint8, generator=random)
    images[0] = torch.arange(256, dtype=torch.uint8).repeat(12).view(3, 32, 32)  # all that a pixel can have
    for batch in (1, 7):
        logits = onnx_export.predict_onnx(exported.SerializeToString(), images.split(batch))
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), by_hand(model, images), rtol=1e-5, atol=1e-5)


def test_the_graph_holds_nothing_but_the_network(exported: onnx.ModelProto) -> None:
    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[Any]]:
        kind = value.type.tensor_type
        return value.name, kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim]

    given, result = (
        [described(value) for value in part] for part in (exported.graph.input, exported.graph.output)
    )
    assert given == [("images", onnx.TensorProto.UINT8, ["N", 3, 32, 32])]
    assert result == [("logits", onnx.TensorProto.FLOAT, ["N", 10])]
    kinds = {node.op_type for node in exported.graph.node}
    assert kinds == {"Cast", "Mul", "Add", "Conv", "Relu", "ReduceMean", "Reshape", "Gemm"}
    assert {entry.key: json.loads(entry.value) for entry in exported.metadata_props} == METADATA


def test_the_same_network_gives_the_same_bytes_without_traces_of_the_machine(
    model: ResNet, exported: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    again = onnx_export.export_onnx(model, NORMALIZATION, METADATA, 32)
    assert capfd.readouterr() == ("", "")
    content = again.SerializeToString()
    assert content == exported.SerializeToString()
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last), "it stays as it is"
    for trace in (str(Path.home()), str(Path(__file__).parents[2]), "site-packages", "stack_trace", ".py"):
        assert trace.encode() not in content, trace


def test_the_tolerance_is_a_share_of_the_largest_logit_and_a_tie_is_no_error() -> None:
    reference = torch.tensor([[3.0, 1.0, 2.0], [0.0, 20.0, -1.0], [1.0, 1.001, 0.0]])
    for change, told in ((0.0019, None), (0.0021, "0.0021"), (float("nan"), "nan")):
        logits = reference.clone()
        logits[2, 0] += change
        if told:
            words = f"differ by {told}, 0.002 is allowed, .* the same for 66.67%"
            with pytest.raises(onnx_export.DisagreementError, match=words):
                onnx_export.compare(logits, reference)
        else:
            compared = onnx_export.compare(logits, reference)
            assert compared["onnx_logit_difference"] == pytest.approx(change, rel=1e-3)
            assert compared["onnx_agreement"] == pytest.approx(2 / 3)
