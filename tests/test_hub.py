"""hubconf.py: the network for torch.hub, without our package, equal to what our package computes."""

import copy
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_resnet import files
from cifar_resnet.network.classifier import model_metadata, read_classifier
from cifar_resnet.network.inference import NormalizationConfig, forward
from cifar_resnet.network.model import build_model, read_config
from cifar_resnet.randomness import generator
from tests.made_up import flip_a_bit, random_images
from tools.scratch import ROOT

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NORMALIZATION = NormalizationConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def write_model(path: Path, width: int = 64) -> None:
    """Write a network of full size with statistics that are not those of the start."""
    config = read_config({"width": width, "blocks": [3, 4, 6, 3]})
    model = build_model(config, 10, generator(0, "initialization"))
    weights = copy.deepcopy(model.state_dict())
    for name, tensor in weights.items():
        if name.endswith("running_mean"):
            tensor.normal_(generator=generator(1, name))
    files.write_tensors(path, weights, model_metadata(config, NORMALIZATION, CLASSES, 32))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    write_model(path)
    return path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with hubconf.py, where our package cannot be imported and nothing is connected to."""
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "cifar_resnet"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("socket.socket.connect", None)
    return tmp_path


def load(repository: Path, **options: Any) -> Any:
    return torch.hub.load(str(repository), "cifar10_resnet50", source="local", **options)


def test_the_network_computes_what_ours_does_and_lets_gradients_through(
    model_file: Path, repository: Path
) -> None:
    (repository / "models").mkdir()
    shutil.copy(model_file, repository / "models/resnet50.safetensors")
    network = load(repository)
    assert not network.training
    assert network.class_names == CLASSES
    assert network.sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    images, ours = random_images(8).images, read_classifier(model_file, torch.device("cpu"))
    with torch.inference_mode():
        expected = forward(ours.model, images, ours.normalization, torch.float32)
    assert expected.std() > 0.1
    floats = (images / 255).requires_grad_()
    for given in (images, floats):
        torch.testing.assert_close(network(given), expected, rtol=0, atol=1e-4)
    network(floats)[:, 3].sum().backward()
    assert floats.grad is not None
    assert floats.grad.isfinite().all()
    assert floats.grad.abs().sum() > 0


def test_without_models_the_file_of_the_lock_is_taken_from_released(
    model_file: Path, repository: Path
) -> None:
    with pytest.raises(ValueError, match=r"there are no weights: .*models/resnet50.safetensors is missing"):
        load(repository)
    md5 = hashlib.md5(model_file.read_bytes(), usedforsecurity=False).hexdigest()
    entry = f"    - path: models/resnet50.safetensors\n      hash: md5\n      md5: {md5}\n      size: 1\n"
    (repository / "dvc.lock").write_text(f"stages:\n  train:\n    outs:\n{entry}")
    kept = repository / "released/files/md5" / md5[:2] / md5[2:]
    kept.parent.mkdir(parents=True)
    shutil.copy(model_file, kept)
    assert load(repository).sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()


def test_another_network_and_a_changed_byte_are_refused(model_file: Path, repository: Path) -> None:
    path = repository / "models/resnet50.safetensors"
    path.parent.mkdir()
    flip_a_bit(Path(shutil.copy(model_file, path)))
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        load(repository)
    write_model(path, width=8)
    with pytest.raises(ValueError, match=r"has .*8.*, not the published network"):
        load(repository)


def test_random_weights_have_the_published_shapes(model_file: Path, repository: Path) -> None:
    network, weights = load(repository, pretrained=False), files.read_tensors(model_file)[0]
    shapes = {name: tensor.shape for name, tensor in network.network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in weights.items()}
    assert network.class_names == CLASSES
