"""docs/gpu-run.md, every command of it: a run on another machine, brought back, checked and published."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Clone
from tools import scratch

COMMAND = re.compile(r"^(home|gpu|clone)\$ (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def machines(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clone]:
    """The machines of the page, after all of its commands."""
    folder = tmp_path_factory.mktemp("machines")
    home = finished.copy(folder / "home")
    scratch.git(home.folder, "rm", "--quiet", "-r", "dvc.lock", "metrics", "plots")
    shutil.rmtree(home.folder / "models")
    scratch.commit(home.folder, "before the run")
    machines = {"home": home}
    for name in ("gpu", "clone"):
        machines[name] = Clone(folder / name, folder / f"{name}-cache")
    machines["gpu"].folder.mkdir()
    environment: dict[str, Any] = {"CIFAR10_SOURCE": str(folder / "official")}
    for name in ("CARRY", "BACK", "official"):  # the made-up images need no source
        (folder / name).mkdir()
        environment[name] = str(folder / name)
    page = (scratch.ROOT / "docs/gpu-run.md").read_text()
    for machine, command in [pair for pair in COMMAND.findall(page) if "pip" not in pair[1]]:
        if machine == "clone" and not machines["clone"].folder.exists():
            scratch.git(folder, "clone", "--quiet", str(home.folder), "clone")
        if command.endswith("dvc repro"):  # the next command runs everything in any case
            shutil.copytree(finished.folder / ".dvc/cache", machines["gpu"].folder / ".dvc/cache")
        printed = machines[machine].run("bash", "-o", "pipefail", "-c", command, **environment)
        for part, shown in (("cmp", "Running stage"), ("predict", "%"), ("dvc status", "up to date")):
            assert shown in printed or part not in command
    return machines


def test_the_results_are_those_of_the_other_machine(machines: dict[str, Clone], finished: Clone) -> None:
    home, gpu, clone = machines.values()
    assert not scratch.git(home.folder, "status", "--porcelain")
    for path in ("dvc.lock", "metrics/test.json", "plots/history.csv", "models/resnet50.safetensors"):
        assert home.read(path) == gpu.read(path) == finished.read(path)
    assert home.dvc("status", "--json", "train", "evaluate").strip() == "{}"
    assert clone.read("models/resnet50.safetensors") == gpu.read("models/resnet50.safetensors")
    printed = clone.dvc("repro")
    assert "Running stage 'preprocess'" in printed
    assert "Running stage 'train'" not in printed, "a fresh clone need not train"
    assert not scratch.git(clone.folder, "status", "--porcelain")


def test_the_readme_and_the_results_say_what_the_run_reached(machines: dict[str, Clone]) -> None:
    home = machines["home"]
    readme = home.read("README.md").decode()
    test = json.loads(home.read("metrics/test.json"))
    accuracy = f"{100 * test['test_accuracy']:.2f}"
    (table,) = (line for line in readme.splitlines() if line.startswith("| default "))
    assert re.search(rf"^\| default \| ResNet14, .* \| \*\*{accuracy}\*\* \(", table, re.MULTILINE)
    assert "exists here yet" not in readme
    record = json.loads(home.read("results/default.json"))
    assert record["commit"] == scratch.git(machines["gpu"].folder, "rev-parse", "HEAD").strip()
    page = home.read("docs/results.md").decode()
    assert re.search(rf"\| default \| 1 \| [\d.]+ \| {accuracy} \|", page)
    ours = pd.read_csv(home.folder / "plots/per_class.csv").set_index("class")["accuracy"]
    assert all(f"| {name} | {100 * share:.1f} |" in page for name, share in ours.items())


def test_a_run_on_a_gpu_is_recorded_under_its_name(machines: dict[str, Clone], tmp_path: Path) -> None:
    home = machines["home"].copy(tmp_path)
    log = home.folder / "logs/train.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[0] |= {"device": "NVIDIA H200", "threads": None, "precision": "torch.bfloat16"}
    del lines[0]["flags"]  # as `fingerprint` leaves them out
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    home.run("python", "-m", "tools.results", "--record")
    readme = home.read("README.md").decode()
    assert re.search(r"^\| default \|.* \| NVIDIA H200, bfloat16 \|$", readme, re.MULTILINE)
    assert re.search("in bfloat16: every digit as recorded on NVIDIA H200$", readme, re.MULTILINE)


def test_an_incomplete_record_is_refused(machines: dict[str, Clone], tmp_path: Path) -> None:
    home = machines["home"].copy(tmp_path)
    readme, log = home.folder / "README.md", home.folder / "logs/train.jsonl"
    whole, lines = readme.read_text(), log.read_text()
    record = home.folder / "results/default.json"
    record.unlink()
    resumed = json.loads(lines.splitlines()[0]) | {"resumed": True, "commit": None}
    for page, notes, told in (
        (whole.replace("<!-- end -->", ""), lines, "README.md lacks the two comments"),
        (whole, lines.replace('"epoch":2', '"epoch":9'), "logs/train.jsonl does not hold all epochs"),
        (whole, f"{lines}{json.dumps(resumed)}\n", "logs/train.jsonl lacks the commit of a process"),
    ):
        readme.write_text(page)
        log.write_text(notes)
        assert told in home.run("python", "-m", "tools.results", "--record", status=1)
        assert not record.exists()
