"""The ONNX file computes what the network computes, and says nothing of the machine."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from cifar_resnet.files.params import UserError
from cifar_resnet.network.inference import NormalizationConfig, build_normalization
from cifar_resnet.network.model import build_model
from cifar_resnet.network.resnet import ResNet, ResNetConfig
from cifar_resnet.serving import onnx_export

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALIZATION = build_normalization(NormalizationConfig(mean=MEAN, std=STD), torch.device("cpu"))
METADATA = {"class_names": ["a", "b", "é"], "normalization": {"mean": MEAN, "std": STD}, "model_sha256": "0"}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Random images, the first of them with every value that a pixel can have."""
    drawn = torch.randint(0, 256, (96, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    drawn[0] = torch.arange(256).repeat(12).view(3, 32, 32)
    return drawn.to(torch.uint8)


@pytest.fixture(scope="module")
def model(images: Tensor) -> ResNet:
    """In evaluation mode, with running statistics of its own."""
    network = build_model(ResNetConfig(width=8, blocks=(2, 1, 1, 1)), 3, torch.Generator().manual_seed(0))
    assert isinstance(network, ResNet)
    for batch in images.split(32):
        network.train()(NORMALIZATION(batch))
    return network.eval()


@pytest.fixture(scope="module")
def exported(model: ResNet) -> onnx.ModelProto:
    return onnx_export.export_onnx(model, NORMALIZATION, METADATA, 32)


@pytest.fixture(scope="module")
def expected(model: ResNet, images: Tensor) -> Tensor:
    """The logits in float64, of images normalized by torchvision."""
    pixels = functional.normalize(images.double() / 255, MEAN, STD)
    network = build_model(ResNetConfig(width=8, blocks=(2, 1, 1, 1)), 3, torch.Generator())
    network.load_state_dict(model.state_dict())
    with torch.inference_mode():
        logits: Tensor = network.double().eval()(pixels)
    return logits


@pytest.mark.parametrize("batch", [1, 7])
def test_any_batch_size_gives_the_networks_logits(
    batch: int, exported: onnx.ModelProto, images: Tensor, expected: Tensor
) -> None:
    given = images[:21]
    logits = onnx_export.predict_onnx(exported.SerializeToString(), given.split(batch))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected[: len(given)], rtol=1e-5, atol=1e-5)


def test_input_and_output_are_named_and_the_batch_is_dynamic(exported: onnx.ModelProto) -> None:
    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[Any]]:
        kind = value.type.tensor_type
        return value.name, kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim]

    assert [described(value) for value in exported.graph.input] == [
        ("images", onnx.TensorProto.UINT8, ["N", 3, 32, 32])
    ]
    assert [described(value) for value in exported.graph.output] == [
        ("logits", onnx.TensorProto.FLOAT, ["N", 3])
    ]


def test_the_graph_holds_nothing_but_the_network_and_its_metadata(exported: onnx.ModelProto) -> None:
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


def test_weights_too_many_for_one_file_are_refused() -> None:
    with torch.device("meta"):
        model = ResNet(ResNetConfig(width=320, blocks=(3, 4, 6, 3)), 10)
    with pytest.raises(UserError, match=r"at most 2,147,483,648 bytes, .* make train.model smaller"):
        onnx_export.export_onnx(model, NORMALIZATION, METADATA, 32)


LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 20.0, -1.0]])


def test_the_tolerance_is_a_share_of_the_largest_logit() -> None:
    for change, told in ((0.0019, None), (0.0021, "0.0021"), (float("nan"), "nan")):
        logits = LOGITS.clone()
        logits[0, 0] += change
        if told:
            with pytest.raises(onnx_export.DisagreementError, match=f"differ by {told}, 0.002 is allowed"):
                onnx_export.compare(logits, LOGITS)
        else:
            compared = onnx_export.compare(logits, LOGITS)
            assert compared["onnx_logit_difference"] == pytest.approx(change, rel=1e-3)


def test_another_top_class_is_refused_unless_it_is_a_tie() -> None:
    def compared(distance: float) -> dict[str, float]:
        rest = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
        one, other = (torch.tensor([[1.0, 1.0 + change], *rest]) for change in (distance, -distance))
        return onnx_export.compare(one, other)

    assert compared(1e-5)["onnx_agreement"] == 0.75
    with pytest.raises(onnx_export.DisagreementError, match=r"the same for 75.00% of the images"):
        compared(1e-2)
