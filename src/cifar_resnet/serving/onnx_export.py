"""The classifier as an ONNX file that takes uint8 images, and whether it computes what PyTorch does."""

import copy
import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnxruntime
import torch
from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass
from pydantic import Field
from torch import Tensor, nn

from cifar_resnet.network.inference import Normalization
from cifar_resnet.params import Config

# Of the largest logit. Float32 with batch norms folded into the convolutions gives 1e-6 for ResNet50; wrong
# weights or a wrong normalization give more than 1e-2.
TOLERANCE = 1e-4


class ExportConfig(Config):
    """`images`: how many test images, the first ones, the ONNX file is checked with."""

    images: int = Field(ge=1)


class DisagreementError(Exception):
    """ONNX Runtime and PyTorch compute different logits from one network: a bug in the export, no setting."""


class _FromPixels(nn.Module):
    """Normalization and network in one, for tracing."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        # Traced in channels_last, the average pool becomes a chain of Gather nodes.
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        self.register_buffer("scale", normalization.scale)
        self.register_buffer("shift", normalization.shift)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, classes) float32."""
        logits: Tensor = self.model(images * self.scale + self.shift)
        return logits


def export_onnx(
    model: nn.Module, normalization: Normalization, metadata: Mapping[str, Any], size: int
) -> onnx.ModelProto:
    """Return the network as ONNX: `images` (N, 3, S, S) uint8 to `logits` (N, classes) float32, for any N.

    `model`: on the CPU. `metadata`: kept in the file, each value as JSON. `size`: S, in pixels. The same ones
    give the same bytes.
    """
    with warnings.catch_warnings():  # PyTorch 2.11 warns of its own use
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
        program: Any = torch.onnx.export(
            _FromPixels(model, normalization).eval(),
            (torch.zeros(2, 3, size, size, dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        )
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with paths of this machine
    proto: onnx.ModelProto = program.model_proto
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def predict_onnx(content: bytes, batches: Iterable[Tensor]) -> Tensor:
    """Return the (N, classes) float32 logits that ONNX Runtime computes on the CPU from an ONNX file.

    `batches`: (N, 3, S, S) uint8.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by itself it takes every core
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"images": batch.numpy()})[0] for batch in batches]
    return torch.cat([torch.from_numpy(batch) for batch in logits])


def compare(logits: Tensor, expected: Tensor) -> dict[str, float]:
    """Return how far two (N, classes) float32 logits of the same images agree.

    Raises DisagreementError when any differ by more than `TOLERANCE` of the largest logit (at least 1). So
    the top class can only differ where two classes are that close: a numerical tie.
    """
    agreement = float((logits.argmax(1) == expected.argmax(1)).double().mean())
    difference = float((logits - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:  # NaN is not
        raise DisagreementError(
            f"ONNX Runtime and PyTorch disagree: logits differ by {difference:.3g}, {allowed:.3g} is allowed,"
            f" and the top class is the same for {agreement:.2%} of the images"
        )
    return {"onnx_agreement": agreement, "onnx_logit_difference": difference}
