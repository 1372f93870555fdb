"""Paths and file formats: the one module that knows where things lie and how they are written.

Every path is relative to the working folder, the root of a clone. A file is written beside its target, synced
and renamed, so a reader sees the old one or the new one, and a cached copy of DVC is never written through.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cifar_resnet.errors import UserError

RAW = Path("data/raw/cifar-10-batches-py")
PICTURES = Path("data/raw/pictures")
TENSORS = Path("data/tensors")
DUPLICATES = Path("data/duplicates.csv")
MODEL = Path("models/resnet50.safetensors")
ONNX = Path("models/resnet50.onnx")
CARD = Path("models/README.md")
LOGS = Path(os.environ.get("CIFAR_RESNET_LOGS", "logs"))  # a sweep gives each run a folder of its own
DIGEST_PLACEHOLDER = "0" * 64  # in place of a tensor file's own SHA-256 while it is computed
HEADER_BYTES = 10_000_000  # more than the description and the list of tensors take
TEXT = ("class", "error", "label", "prediction", "test_label", "train_label")  # columns with names of classes
METADATA_KEY = "cifar_resnet"  # of the description in a tensor file's metadata


def cache() -> Path:
    """Return this user's cache folder. Raises UserError when there is none, for want of a home."""
    try:
        return platformdirs.user_cache_path("cifar-resnet")
    except RuntimeError:
        raise UserError("this user has no home for caches; set HOME or XDG_CACHE_HOME") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a power cut can undo the rename
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno and not error.filename:  # a full disk's has no name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`, which replaces the folder `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def sha256(path: Path) -> str:
    """Return a file's SHA-256, the one that `sha256sum` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_metrics(name: str, metrics: Mapping[str, Any]) -> None:
    """Write metrics/NAME.json."""
    write_bytes(Path(f"metrics/{name}.json"), (json.dumps(metrics, indent=2) + "\n").encode())


def read_metrics(name: str) -> Any:
    """Return metrics/NAME.json. Raises UserError when it is damaged."""
    return read_json(Path(f"metrics/{name}.json"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises UserError when it is damaged."""
    with readable(path):
        return json.loads(path.read_bytes())


def write_table(name: str, table: pd.DataFrame) -> None:
    """Write plots/NAME.csv."""
    write_csv(Path(f"plots/{name}.csv"), table)


def read_table(name: str) -> pd.DataFrame:
    """Return plots/NAME.csv."""
    return read_csv(Path(f"plots/{name}.csv"))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Return what `write_csv` wrote; the columns of `TEXT` are text, also of a class 007 or None.

    Raises UserError when the file is no CSV.
    """
    with readable(path):
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise UserError when what reads `path` in the block finds it damaged."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # those of JSON, pandas and UTF-8 are among them
        reason = " ".join(str(error).split())
        remedy = f"`git checkout {path}`, or run the stage again that writes it"
        raise UserError(f"{path} is damaged ({reason}): {remedy}") from None


def append_log(name: str, record: Mapping[str, Any]) -> None:
    """Add a line to logs/NAME.jsonl, which git and DVC ignore: the place for times and hardware."""
    LOGS.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([record]).to_json(LOGS / f"{name}.jsonl", orient="records", lines=True, mode="a")


def write_figure(name: str, figure: Figure) -> None:
    """Write plots/NAME.png, without the version that Matplotlib would add."""
    with atomic_write(Path(f"plots/{name}.png")) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})


def tensors_path(name: str) -> Path:
    """Return data/tensors/NAME.safetensors."""
    return TENSORS / f"{name}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and their JSON description `metadata` as a safetensors file that holds its own SHA-256.

    The digest is that of the file with 64 zeros in its place, so it covers every byte. The same tensors and
    description give the same bytes.
    """
    metadata = {METADATA_KEY: json.dumps({**metadata, "sha256": DIGEST_PLACEHOLDER}, sort_keys=True)}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(path, content.replace(DIGEST_PLACEHOLDER.encode(), digest.encode(), 1))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description that `write_tensors` wrote, with the file's "sha256".

    Raises UserError when the file is missing or any bit is not as it was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing{_remedy(path)}") from None
    try:
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        metadata: dict[str, Any] = json.loads(json.loads(header)["__metadata__"][METADATA_KEY])
        unsealed = content.replace(metadata["sha256"].encode(), DIGEST_PLACEHOLDER.encode(), 1)
        tensors = load(content) if hashlib.sha256(unsealed).hexdigest() == metadata["sha256"] else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        tensors = None
    if tensors is None:
        remedy = _remedy(path, " --force")
        if METADATA_KEY.encode() not in content[:HEADER_BYTES]:
            raise UserError(f"{path} is damaged, or not a safetensors file that this project wrote{remedy}")
        raise UserError(f"{path} is damaged: it is not what was written{remedy}")
    return tensors, metadata


def _remedy(path: Path, force: str = "") -> str:
    """What brings back a tensor file of this project."""
    if path == MODEL:
        published = f"`dvc pull{force} -r released {path}` gets the published one"
        return f"; {published}, `dvc repro{force} train` trains one"
    return f"; `dvc repro{force} preprocess` makes it" if path.parent == TENSORS else ""
