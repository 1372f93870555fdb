"""Paths and file formats: the one module that knows where things lie and how they are written.

Every path is relative to the working folder, the root of a clone. A file is written beside its target, synced
and renamed, so a reader sees the old one or the new one, and a cached copy of DVC is never written through.
"""

import csv
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import platformdirs
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cifar_resnet import tensorfile
from cifar_resnet.tensorfile import DamagedError, TensorFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

RAW = Path("data/raw/cifar-10-batches-py")
CHECKSUMS = RAW / "SHA256SUMS"
CACHE = platformdirs.user_cache_path("cifar-resnet")
MODEL = Path("models/resnet50.safetensors")
ONNX = Path("models/resnet50.onnx")
CARD = Path("models/README.md")
DUPLICATES = Path("data/duplicates.csv")
REMAKE = "`dvc repro --force {}` makes it anew"
Config = TypeVar("Config", bound=BaseModel)


def read_section(section: str) -> Any:
    """Return one section of params.yaml as it stands there, for a stage that shows what another one used."""
    try:
        document = YAML(typ="safe").load(Path("params.yaml"))  # as DVC reads it: 1e-3 is a number
    except YAMLError as error:
        raise ValueError(f"params.yaml is not valid YAML: {error}") from None
    sections = document if isinstance(document, dict) else {}
    if section not in sections:
        raise ValueError(f"params.yaml has no section {section!r}{_nearest(section, sections)}")
    return sections[section]


def read_params(section: str, config_class: type[Config]) -> Config:
    """Return one section of params.yaml. Raises ValueError that names each wrong entry and its mending."""
    values = read_section(section)
    try:
        return config_class.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        lines = [_describe(section, config_class, details) for details in error.errors()]
        raise ValueError("params.yaml: " + "; ".join(lines)) from None


def _nearest(name: str, names: Iterable[Any]) -> str:
    match = difflib.get_close_matches(name, map(str, names), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _describe(section: str, config_class: type[BaseModel], details: Any) -> str:
    *parents, name = details["loc"] or (section,)
    path = ".".join(map(str, (section, *details["loc"])))
    if details["type"] != "extra_forbidden":
        found = "" if isinstance(details["input"], dict) else f" (it is {details['input']!r})"
        message = details["msg"].removeprefix("Value error, ")
        return f"{path}: {message[:1].lower()}{message[1:]}{found}"
    for parent in parents:
        config_class = config_class.model_fields[parent].annotation  # type: ignore[assignment]
    fields = list(config_class.model_fields)
    return f"{path}: unknown name{_nearest(str(name), fields) or '; known are ' + ', '.join(fields)}"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


def sha256(path: Path) -> str:
    """Return a file's SHA-256, the one that `sha256sum` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_raw(contents: Mapping[str, bytes]) -> None:
    """Write the raw batch files."""
    for name, content in contents.items():
        write_bytes(RAW / name, content)


def write_checksums() -> None:
    """Write the SHA-256 of every raw file, in the format of `sha256sum`."""
    paths = sorted(path for path in RAW.iterdir() if path != CHECKSUMS)
    lines = [f"{sha256(path)}  {path.name}\n" for path in paths]
    write_bytes(CHECKSUMS, "".join(lines).encode())


def read_raw(name: str) -> bytes:
    """Return a raw batch file. Raises ValueError unless its SHA-256 is the one it was fetched with."""
    content = (RAW / name).read_bytes()
    if f"{hashlib.sha256(content).hexdigest()}  {name}" not in CHECKSUMS.read_text().splitlines():
        raise ValueError(
            f"{RAW / name} is damaged: its SHA-256 changed since it was fetched; {REMAKE.format('fetch')}"
        )
    return content


def write_metrics(name: str, metrics: Mapping[str, Any]) -> None:
    """Write metrics/NAME.json."""
    write_bytes(Path(f"metrics/{name}.json"), (json.dumps(metrics, indent=2) + "\n").encode())


def read_metrics(name: str) -> Any:
    """Return metrics/NAME.json."""
    return json.loads(Path(f"metrics/{name}.json").read_bytes())


def write_table(name: str, rows: list[dict[str, Any]]) -> None:
    """Write plots/NAME.csv with a column per key of the first row."""
    _write_csv(Path(f"plots/{name}.csv"), rows[0], rows)


def read_table(name: str) -> list[dict[str, float]]:
    """Return the rows of plots/NAME.csv, all of whose columns are numbers."""
    rows = _read_csv(Path(f"plots/{name}.csv"))
    return [{key: float(value) for key, value in row.items()} for row in rows]


def write_duplicates(rows: list[dict[str, Any]]) -> None:
    """Write which test images have a near-duplicate; perhaps none has."""
    _write_csv(DUPLICATES, rows[0] if rows else ["test_index"], rows)


def read_duplicates() -> list[int]:
    """Return the indices of the test images that have a near-duplicate."""
    return [int(row["test_index"]) for row in _read_csv(DUPLICATES)]


def _write_csv(path: Path, columns: Iterable[str], rows: list[dict[str, Any]]) -> None:
    with _replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_log(name: str, record: Mapping[str, Any]) -> None:
    """Add a line to logs/NAME.jsonl, which git and DVC ignore: the place for times."""
    path = Path(f"logs/{name}.jsonl")
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def write_figure(name: str, figure: "Figure") -> None:
    """Write plots/NAME.png, without the version that Matplotlib would add."""
    with _replacing(Path(f"plots/{name}.png")) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})


def tensors_path(name: str) -> Path:
    """Return data/tensors/NAME.safetensors."""
    return Path(f"data/tensors/{name}.safetensors")


@contextmanager
def naming_remedy(stage: str) -> Iterator[None]:
    """Say which stage makes a damaged file anew."""
    try:
        yield
    except DamagedError as error:
        raise ValueError(f"{error}; {REMAKE.format(stage)}") from None


def write_tensors(path: Path, tensors: dict[str, "Tensor"], about: dict[str, Any]) -> None:
    """Write tensors and their description."""
    with _replacing(path) as temporary:
        tensorfile.write(temporary, tensors, about)


def read_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return tensors of `preprocess` and their description, with the file's "sha256"."""
    with naming_remedy("preprocess"):
        return tensorfile.read(path)


def open_tensors(path: Path) -> TensorFile:
    """Return tensors of `preprocess`, to be read in parts."""
    with naming_remedy("preprocess"):
        return TensorFile(path)
