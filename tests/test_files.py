"""params.yaml and the file formats, right and wrong."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from dvc.utils.serialize import load_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cifar_resnet import files, params
from cifar_resnet.data import checksums, cifar10
from cifar_resnet.data.duplicates import DuplicatesConfig
from cifar_resnet.data.sources import FetchConfig
from cifar_resnet.data.split import PreprocessConfig
from cifar_resnet.errors import UserError
from cifar_resnet.evaluation.metrics import EvaluateConfig
from cifar_resnet.process import command
from cifar_resnet.serving.onnx_export import ExportConfig
from cifar_resnet.training.config import TrainConfig
from tests.process.test_checkpoint import no_space
from tools.scratch import ROOT, merge

CONFIGS: dict[str, Any] = {
    "fetch": FetchConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "duplicates": DuplicatesConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}


# Values just outside of what is allowed.
BOUNDS: dict[str, dict[str, list[Any]]] = YAML(typ="safe").load("""
fetch:
  {dataset: [cifar100], folder: [""], sources: [[]], synthetic.train_images: [0, 75, 50050],
  synthetic.test_images: [0, 15, 10010], synthetic.seed: [-1]}
preprocess: {image_size: [8, 20, 136], validation_images: [0], train_images: [0], seed: [-1]}
duplicates: {threshold: [0.39, 1.01]}
train:
  {seed: [-1], batch_size: [0], patience: [0], processes: [0], precision: [float8], device: [gpu],
  label_smoothing: [-0.1, 1], ema_decay: [-0.1, 1], epochs: [true],
  model.width: [3, 1025], model.blocks: [[1, 1, 1], [1, 1, 1, 101]],
  schedule.shape: [linear], schedule.warmup: [-0.1, 1], optimizer.lr: [0, 10.1, .nan],
  optimizer.betas: [[0.9], [0.9, 1], [-0.1, 0.9]], optimizer.weight_decay: [-0.1, 10.1],
  augmentation.flip: [-0.1, 1.1], augmentation.rotation: [-1, 181], augmentation.padding: [-1, 33],
  augmentation.cutout: [-2, 3, 66], mixing.cutmix: [-0.1, 1.1], mixing.mixup: [-0.1, 1.1],
  mixing.plain_epochs: [-1], normalization.mean: [[0.5, 0.5], [-0.1, 0, 0], [1.1, 0, 0]],
  normalization.std: [[0, 1, 1], [1.1, 1, 1]]}
evaluate: {batch_size: [0]}
export: {images: [0]}
""")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(text: str) -> None:
    Path("params.yaml").write_text(text, errors="surrogateescape")


def committed() -> Any:
    return YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "on", "True", "false", "1e-3", "1.5E+2", "0x1f", "17", "-.5", "~", ".inf", "1_000"),
        *("010", "1:30", ".5e3", "0o17"),  # on which parsers of YAML 1.1 and 1.2 differ
    ],
)
def test_params_are_read_as_dvc_reads_them(text: str) -> None:
    write_params(f"train: {{value: {text}}}")
    assert params.read_section("train") == load_yaml("params.yaml")["train"]


@pytest.mark.parametrize("section", BOUNDS)
def test_a_value_out_of_bounds_is_refused(section: str) -> None:
    for name, values in BOUNDS[section].items():
        for value in values:
            document, changes = committed(), value
            for part in reversed(name.split(".")):
                changes = {part: changes}
            merge(document[section], changes)
            write_params(json.dumps(document))
            with pytest.raises(UserError, match=rf"^params\.yaml: {section}\.{name}"):
                params.read(section, CONFIGS[section])


# What stands in the recipe, what in its place, and parts of the message.
WRONG = [
    (
        "device: auto\n  processes",
        "device: gpu\n  processes",
        "train.device: .*'cuda' or 'mps'.*'gpu'",
    ),
    ("[3, 4, 6, 3]", "[3, 4, 6, 0]", "train.model.blocks.3: .*greater than or equal to 1.*is 0"),
    ("name: resnet", "name: resmet", "train.model: .*'resmet'.*'resnet'"),
    ("batch_size: 256", "batchsize: 256", r"train.batchsize: unknown name; did you mean 'batch_size'\?"),
    ("    lr: 0.001", "    zzz: 1", "optimizer.lr: field required; train.optimizer.zzz: unknown name$"),
    ("    width: 64", "    widht: 64", r"train.model.widht: unknown name; did you mean 'width'\?"),
    ("  patience: 10", "", "train.patience: field required"),
    ("  model:\n    name: resnet\n    width: 64\n    blocks: [3, 4, 6, 3]", "  model: 7", "train.model: "),
    ("train:\n", "trian:\n", r"no section 'train'; did you mean 'trian'\?"),
    ("  epochs: 50", "  epochs: 50\n  epochs: 60", "not valid YAML"),
    ("  epochs: 50", "  epochs: [50", "not valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "told"), WRONG)
def test_what_is_wrong_is_told_with_what_is_valid(old: str, new: str, told: str) -> None:
    text = (ROOT / "recipes/original.yaml").read_text()
    assert old in text
    write_params(text.replace(old, new))
    with pytest.raises(UserError, match=rf"^params\.yaml(.|\n)*{told}"):
        params.read("train", TrainConfig)


def test_a_document_that_is_no_params_file_is_refused() -> None:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 10))
    for text in ("", "\x00", "train: 3", "train: &a [*a]", "train: " + "[" * 5000, "train: \udcff", laughs):
        write_params(text)
        with pytest.raises(ValueError, match=r"params\.yaml"):
            params.read("train", TrainConfig)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(section=st.sampled_from(sorted(CONFIGS)), data=st.data())
def test_any_value_is_valid_or_refused_in_one_line(section: str, data: st.DataObject) -> None:
    document = committed()
    target = document[section]
    name = data.draw(st.sampled_from(sorted(target)))
    while isinstance(target[name], dict) and data.draw(st.booleans()):
        target = target[name]
        name = data.draw(st.sampled_from(sorted(target)))
    target[name] = data.draw(values)
    write_params(json.dumps(document))  # JSON is YAML
    try:
        with mock.patch("sys.argv", ["stage"]):
            command.run(lambda: params.read(section, CONFIGS[section]) and None, None)
    except SystemExit as end:
        told = str(end.code)
        assert told.startswith("error: params.yaml")
        assert len(told.splitlines()) == 1


def test_every_flipped_bit_and_every_truncation_of_tensors_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    images = torch.arange(3072, dtype=torch.uint8).view(1, 3, 32, 32)
    files.write_tensors(path, {"images": images, "labels": torch.tensor([3])}, {"classes": ["a", "b"]})
    content, chosen = path.read_bytes(), random.Random(0)
    header, end = 8 + int.from_bytes(content[:8], "little"), len(content)
    cuts = [0, 1, 7, 8, 9, header, end - 1, *chosen.sample(range(end), 3)]
    damaged = [content + b"\0", *(content[:length] for length in cuts)]
    # Every bit of the header, since that is where a reader could be misled, and 50 of the data.
    for bit in (*range(8 * header), *(chosen.randrange(8 * header, 8 * end) for _ in range(50))):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="damaged"):
            files.read_tensors(path)


def test_a_missing_or_damaged_file_says_how_to_get_it_again() -> None:
    for path, missing, damaged in (
        (files.MODEL, "`dvc pull -r released models/resnet50.safetensors`", "`dvc pull --force -r released"),
        (files.tensors_path("val"), "`dvc repro preprocess`", "`dvc repro --force preprocess`"),
        (Path("elsewhere.safetensors"), "[^`]*$", "[^`]*$"),
    ):
        with pytest.raises(UserError, match=f"^{path} is missing.*{missing}"):
            files.read_tensors(path)
        files.write_bytes(path, b"short")
        with pytest.raises(UserError, match=f"^{path} is damaged.*{damaged}"):
            files.read_tensors(path)


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: 'models/x'$"):
        files.write_bytes(Path("models/x"), b"")


@pytest.mark.parametrize("content", [b"", b"\xff", b'"cut', b'a,b\n"1'])
def test_a_table_or_metrics_file_that_is_damaged_is_named(content: bytes) -> None:
    for path in ("plots/history.csv", "metrics/test.json"):
        files.write_bytes(Path(path), content)
        with pytest.raises(UserError, match=f"^{path} is damaged"):
            files.read_table("history") if path.endswith(".csv") else files.read_metrics("test")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user without a name
    with pytest.raises(UserError, match="set HOME or XDG_CACHE_HOME"):
        files.cache()


def test_names_of_classes_stay_text_in_tables() -> None:
    names = ["007", "08", "None", "nan", "1e3", "true"]
    table = pd.DataFrame({"class": names, "accuracy": [0.5, 0.25, None, 1, 1, 1]})
    files.write_table("per_class", table)
    pd.testing.assert_frame_equal(files.read_table("per_class"), table)


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
