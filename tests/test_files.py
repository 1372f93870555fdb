"""params.yaml and the file formats, right and wrong."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cifar_resnet import files
from cifar_resnet.data import checksums, cifar10
from cifar_resnet.data.duplicates import DuplicatesConfig
from cifar_resnet.data.sources import FetchConfig
from cifar_resnet.data.split import PreprocessConfig
from cifar_resnet.evaluation.metrics import EvaluateConfig
from cifar_resnet.files.params import UserError
from cifar_resnet.process import command
from cifar_resnet.serving.onnx_export import ExportConfig
from cifar_resnet.training.config import TrainConfig
from tools.scratch import ROOT, merge

CONFIGS: dict[str, Any] = {
    "fetch": FetchConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "duplicates": DuplicatesConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}


# By name: values just outside of what is allowed.
BOUNDS: dict[str, list[Any]] = {
    "fetch.dataset": ["cifar100"],
    "fetch.folder": [""],
    "fetch.sources": [[]],
    "fetch.synthetic.train_images": [0, 75, 50_050],
    "fetch.synthetic.test_images": [0, 15, 10_010],
    "fetch.synthetic.seed": [-1],
    "preprocess.image_size": [8, 20, 136],
    "preprocess.validation_images": [0],
    "preprocess.train_images": [0],
    "preprocess.seed": [-1],
    "duplicates.threshold": [0, 1.01],
    "train.seed": [-1],
    "train.batch_size": [0],
    "train.patience": [0],
    "train.processes": [0],
    "train.precision": ["float8"],
    "train.label_smoothing": [-0.1, 1],
    "train.ema_decay": [-0.1, 1],
    "train.model.width": [3, 1025],
    "train.model.blocks": [[1, 1, 1], [1, 1, 1, 101]],
    "train.schedule.shape": ["linear"],
    "train.schedule.warmup": [-0.1, 1],
    "train.optimizer.lr": [0, 10.1],
    "train.optimizer.betas": [[0.9], [0.9, 1], [-0.1, 0.9]],
    "train.optimizer.weight_decay": [-0.1, 10.1],
    "train.augmentation.flip": [-0.1, 1.1],
    "train.augmentation.rotation": [-1, 181],
    "train.augmentation.padding": [-1, 33],
    "train.augmentation.cutout": [-2, 3, 66],
    "train.mixing.cutmix": [-0.1, 1.1],
    "train.mixing.mixup": [-0.1, 1.1],
    "train.mixing.plain_epochs": [-1],
    "train.normalization.mean": [[0.5, 0.5], [-0.1, 0, 0], [1.1, 0, 0]],
    "train.normalization.std": [[0, 1, 1], [1.1, 1, 1]],
    "evaluate.batch_size": [0],
    "export.images": [0],
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(text: str) -> None:
    Path("params.yaml").write_text(text)


def committed() -> Any:
    return YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    "text", ["yes", "on", "True", "false", "1e-3", "1.5E+2", "0x1f", "17", "-.5", "~", ".inf", "1_000"]
)
def test_params_are_read_as_dvc_reads_them(text: str) -> None:
    write_params(f"train: {{value: {text}}}")
    assert files.read_section("train") == YAML(typ="safe").load(Path("params.yaml"))["train"]


@pytest.mark.parametrize("text", ["1e-3", ".001"])
def test_every_spelling_of_a_float_is_that_float(text: str) -> None:
    write_params((ROOT / "recipes/original.yaml").read_text().replace("lr: 0.001", f"lr: {text}"))
    assert files.read_params("train", TrainConfig).optimizer.lr == 0.001


@pytest.mark.parametrize("name", BOUNDS)
def test_a_value_out_of_bounds_is_refused(name: str) -> None:
    section, *names = name.split(".")
    for value in BOUNDS[name]:
        params, changes = committed(), value
        for part in reversed(names):
            changes = {part: changes}
        merge(params[section], changes)
        write_params(json.dumps(params))
        with pytest.raises(UserError, match=name):
            files.read_params(section, CONFIGS[section])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": True}, ["train.epochs", "integer", "True"]),
        ({"device": "gpu"}, ["train.device", "'auto', 'cpu', 'cuda' or 'mps'", "'gpu'"]),
        ({"optimizer": {"lr": float("nan")}}, ["train.optimizer.lr"]),
        (
            {"model": {"blocks": [3, 4, 6, 0]}},
            ["train.model.blocks.3", "greater than or equal to 1", "is 0"],
        ),
        ({"model": 7}, ["train.model", "object"]),
        ({"model": {"name": "resmet"}}, ["train.model: ", "'resmet'", "'resnet'"]),
    ],
)
def test_a_wrong_value_is_named_in_one_line(changes: dict[str, Any], told: list[str]) -> None:
    params = committed()
    merge(params["train"], changes)
    YAML().dump(params, Path("params.yaml"))
    with pytest.raises(ValueError, match=r"params\.yaml") as caught:
        files.read_params("train", TrainConfig)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in told if part not in message] == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("batch_size: 256", "batchsize: 256", "train.batchsize: unknown name; did you mean 'batch_size'?"),
        ("    lr: 0.001", "    zzz: 1", "train.optimizer.zzz: unknown name; known are lr, betas"),
        ("    width: 64", "    widht: 64", "train.model.widht: unknown name; did you mean 'width'?"),
        ("  patience: 10", "", "train.patience: field required"),
        ("train:\n", "trian:\n", "no section 'train'; did you mean 'trian'?"),
        ("  epochs: 50", "  epochs: 50\n  epochs: 60", "not valid YAML"),
        ("  epochs: 50", "  epochs: [50", "not valid YAML"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest_valid_one(old: str, new: str, told: str) -> None:
    text = (ROOT / "recipes/original.yaml").read_text()
    assert old in text
    write_params(text.replace(old, new))
    with pytest.raises(ValueError, match=r"params\.yaml") as caught:
        files.read_params("train", TrainConfig)
    assert told in str(caught.value)


def test_a_document_that_is_no_params_file_is_refused() -> None:
    for text in ("", "\x00", "train: 3"):
        write_params(text)
        with pytest.raises(ValueError, match=r"params\.yaml"):
            files.read_params("train", TrainConfig)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(section=st.sampled_from(sorted(CONFIGS)), data=st.data())
def test_any_value_is_valid_or_refused_in_one_line(section: str, data: st.DataObject) -> None:
    params = committed()
    target = params[section]
    name = data.draw(st.sampled_from(sorted(target)))
    while isinstance(target[name], dict) and data.draw(st.booleans()):
        target = target[name]
        name = data.draw(st.sampled_from(sorted(target)))
    target[name] = data.draw(values)
    write_params(json.dumps(params))  # JSON is YAML
    try:
        with mock.patch("sys.argv", ["stage"]):
            command.run(lambda: files.read_params(section, CONFIGS[section]) and None, None)
    except SystemExit as end:
        told = str(end.code)
        assert told.startswith("error: params.yaml")
        assert len(told.splitlines()) == 1


def sealed(path: Path) -> dict[str, torch.Tensor]:
    tensors = {
        "images": torch.arange(3072, dtype=torch.uint8).view(1, 3, 32, 32),
        "labels": torch.tensor([3]),
    }
    files.write_tensors(path, tensors, {"classes": ["a", "b"]})
    return tensors


def test_tensors_come_back_as_written_with_the_same_bytes(tmp_path: Path) -> None:
    tensors = sealed(tmp_path / "a.safetensors")
    read, about = files.read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert about["classes"] == ["a", "b"]
    sealed(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_every_flipped_bit_and_every_truncation_of_tensors_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sealed(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    chosen = random.Random(0)
    # Every bit of the header, since that is where a reader could be misled, and 50 of the data.
    flips = [*range(8 * header), *(chosen.randrange(8 * header, 8 * len(content)) for _ in range(50))]
    for bit in flips:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            files.read_tensors(path)
    cuts = [0, 1, 7, 8, 9, header, len(content) - 1, *chosen.sample(range(len(content)), 3)]
    for length in cuts:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged"):
            files.read_tensors(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        files.read_tensors(path)


@pytest.mark.parametrize(
    ("path", "missing", "damaged"),
    [
        (files.MODEL, "`dvc pull -r released models/resnet50.safetensors`", "`dvc repro --force train`"),
        (files.tensors_path("val"), "`dvc repro preprocess`", "`dvc repro --force preprocess`"),
        (Path("elsewhere.safetensors"), "", ""),
    ],
)
def test_a_missing_or_damaged_file_says_how_to_get_it_again(path: Path, missing: str, damaged: str) -> None:
    with pytest.raises(UserError, match=f"{path} is missing.*{missing}") as told:
        files.read_tensors(path)
    assert bool(missing) == ("`" in str(told.value))
    files.write_bytes(path, b"short")
    with pytest.raises(UserError, match=f"{path} is damaged.*{damaged}") as told:
        files.read_tensors(path)
    assert bool(damaged) == ("`" in str(told.value))


def test_a_raw_file_that_changed_is_not_read() -> None:
    contents = {"batches.meta": b"def", "data_batch_1": b"abc"}
    for name, content in contents.items():
        files.write_bytes(files.RAW / name, content)
    for _ in range(2):  # the second time there is a file of checksums already
        checksums.write(files.RAW)
        lines = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
        assert (files.RAW / "SHA256SUMS").read_text().splitlines() == lines, "as sha256sum writes them"
    assert cifar10.read_raw("data_batch_1") == b"abc"
    (files.RAW / "data_batch_1").write_bytes(b"def")  # the other file's bytes
    with pytest.raises(UserError, match=r"data_batch_1 is damaged: .* `dvc repro --force fetch`"):
        cifar10.read_raw("data_batch_1")
