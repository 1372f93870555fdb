"""`make verify` at a small size: it passes on a locked run, and names what was changed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cifar_resnet import files
from tests.conftest import Clone
from tools import first_steps, lock, recomputed, scratch, verify

VERIFY = ("python", "-m", "tools.verify")


@pytest.fixture(scope="module")
def made(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The finished clone with its record, as it is published. Whoever changes anything takes a copy."""
    clone = finished.copy(tmp_path_factory.mktemp("published"))
    clone.run("python", "-m", "tools.results", "--record")
    clone.run(*VERIFY, "--record")
    scratch.commit(clone.folder, "published")
    return clone


@pytest.fixture
def published(made: Clone, tmp_path: Path) -> Clone:
    """A copy of the published clone."""
    return made.copy(tmp_path)


@pytest.fixture
def here(published: Clone, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """The same, as the working folder of this process."""
    monkeypatch.chdir(published.folder)
    return published


def verdicts(printed: str) -> dict[str, str]:
    return {name: verdict for verdict, name in re.findall(r"^(PASS|FAIL|----)  (\w+)", printed, re.MULTILINE)}


def test_a_published_run_is_repeated_to_the_last_digit_and_nothing_is_written(published: Clone) -> None:
    log = published.read("logs/train.jsonl")
    printed = published.run(*VERIFY, "--epochs", "3", "--full")
    assert set(verdicts(printed).values()) == {"PASS"}
    assert "every digit of" in printed
    assert "3 epochs are identical" in printed
    assert not published.run("git", "status", "--porcelain")
    assert published.read("logs/train.jsonl") == log


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("augmentation.py", "padding)  # (N, S): row", "padding + 1)  # (N, S): row"),
        ("optimizer.py", '"weight_decay": config.weight_decay', '"weight_decay": 1.01 * config.weight_decay'),
    ],
)
def test_another_recipe_in_the_code_is_found(published: Clone, path: str, old: str, new: str) -> None:
    published.edit(f"src/cifar_resnet/training/{path}", old, new)
    printed = published.run(*VERIFY, status=1)
    assert verdicts(printed) == {"lock": "FAIL", "figures": "PASS", "weights": "PASS", "steps": "FAIL"}
    assert f"src/cifar_resnet/training/{path} is not what train ran with: `make harmless`" in printed
    assert "the first steps are not those of this very processor" in printed


def test_another_processor_agrees_within_rounding_and_finds_another_rate(published: Clone) -> None:
    for path in ("results/default.json", "results/default.log.jsonl"):
        published.edit(path, '"instructions": "', '"instructions": "another than ')
    recorded = published.folder / "results/verify.json"
    row = json.loads(recorded.read_text())[-1] | {"instructions": "another"}
    other = row | {"totals": [[loss + 1e-6, correct] for loss, correct in row["totals"]]}
    recorded.write_text(json.dumps([row, other]))
    published.run("python", "-m", "tools.results")  # the page names the processor
    assert "agrees: in float32" in published.run(*VERIFY)
    published.edit(
        "src/cifar_resnet/training/loop.py",
        "config.optimizer.lr *",
        "1.01 * config.optimizer.lr *",
    )
    printed = published.run(*VERIFY, status=1)
    assert "the loss after step 2 is off by" in printed


def test_what_is_missing_is_fetched_or_named(published: Clone) -> None:
    for path in ("models/resnet50.safetensors", "data/tensors/val.safetensors"):
        (published.folder / path).unlink()
    printed = published.run(*VERIFY)
    assert "missing, so `dvc pull -r released models/resnet50.safetensors` runs" in printed
    assert set(verdicts(printed).values()) == {"PASS"}
    (published.folder / "models/resnet50.safetensors").unlink()
    published.run("rm", "-r", ".dvc/cache")
    printed = published.run(*VERIFY, status=3)
    assert verdicts(printed)["weights"] == "----"
    assert "models/resnet50.safetensors is missing: `dvc pull -r released" in printed
    published.edit("src/cifar_resnet/data/split.py", '"""', '"""More. ')
    (published.folder / "data/tensors/val.safetensors").unlink()
    before = published.read("dvc.lock")
    printed = published.run(*VERIFY, status=1)
    assert "src/cifar_resnet/data/split.py is not what preprocess ran with: `dvc repro preprocess`" in printed
    assert published.read("dvc.lock") == before


def test_steps_are_recorded_only_on_a_machine_that_repeats_the_published_epoch(published: Clone) -> None:
    first = published.read("plots/history.csv").decode().splitlines()[1]
    published.edit("plots/history.csv", first, first.replace("0.", "0.1", 1))
    printed = published.run(*VERIFY, "--record", status=1)
    assert "epoch 1 is not the one of plots/history.csv" in printed


def test_the_digests_of_files_and_folders_are_those_of_dvc(here: Clone) -> None:
    stages = lock.read()
    for name in stages:
        wanted = lock.code(stages, name)
        assert lock.code_digests(list(wanted)) == lock.code_digests(list(wanted), "HEAD") == wanted
    (here.folder / "src/cifar_resnet/files/.__init__.py.swp").write_text("an editor's")
    wanted = lock.code(stages, "train")
    assert lock.code_digests(list(wanted)) == wanted
    here.edit("src/cifar_resnet/files/params.py", '"""', '"""More. ')
    scratch.commit(here.folder, "an edit")
    assert lock.code_digests(list(wanted), "HEAD") != wanted
    assert lock.code_digests(list(wanted), lock.base(wanted)) == wanted


def test_the_lock_is_held_against_everything_that_it_names(here: Clone) -> None:
    stages = lock.read()
    assert not verify.check_lock(stages).differs
    here.edit("metrics/test.json", '"test_loss": ', '"test_loss": 1')
    here.edit("params.yaml", "patience: 10", "patience: 9")
    here.edit("dvc.yaml", "cmd: python -m stages.export", "cmd: python -O -m stages.export")
    (here.folder / "plots/confusion.png").unlink()
    wrong = [line.split(":")[0] for line in verify.check_lock(stages).differs]
    assert wrong == [
        *("params.yaml", "dvc.yaml", "params.yaml"),  # of train, of export twice
        *("metrics/test.json is not the one in dvc.lock", "plots/confusion.png is not the one in dvc.lock"),
    ]
    train = stages["train"]["deps"]
    next(entry for entry in train if entry["path"].endswith("val.safetensors"))["md5"] = "0" * 32
    assert "val.safetensors was another file when train read it" in str(verify.check_lock(stages))
    del stages["train"]
    assert "dvc.lock has no run of train" in str(verify.check_lock(stages).unseen)


def altered(
    name: str, column: str, change: Callable[["pd.Series[Any]"], "pd.Series[Any]"]
) -> Callable[[], None]:
    def alter() -> None:
        table = files.read_table(name)
        table[column] = change(table[column])
        files.write_table(name, table)

    return alter


def replaced(path: str, old: str, new: str) -> Callable[[], None]:
    return lambda: Clone.at(Path(), Path()).edit(path, old, new)


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (replaced("metrics/test.json", '"test_loss": ', '"test_loss": 1'), "metrics/test.json: test_loss"),
        (replaced("metrics/test.json", '"test_f1": 0.', '"test_f1": 0.1'), "metrics/test.json: test_f1"),
        (replaced("metrics/train.json", '"best_epoch": ', '"best_epoch": 1'), "metrics/train.json"),
        (
            altered("predictions", "confidence", lambda old: old.clip(upper=0.1)),
            "metrics/test.json: test_ece",
        ),
        (altered("predictions", "index", lambda old: old.replace(3, 4)), "each of the 100 test images once"),
        (
            altered("predictions", "prediction", lambda old: old.iloc[::-1].set_axis(old.index)),
            "plots/confusions.csv",
        ),
        (altered("subsets", "accuracy", lambda old: old + 0.01), "plots/subsets.csv"),
        (
            replaced("metrics/test.json", '"test_deduplicated": 0', '"test_deduplicated": 1'),
            "test_deduplicated",
        ),
        (replaced("metrics/test.json", "{", '{"test_more": 1,'), "its names"),
        (replaced("metrics/duplicates.json", '"duplicates": ', '"duplicates": 1'), "metrics/duplicates.json"),
        (replaced("results/default.json", '"width": 4', '"width": 8'), "another recipe"),
        (replaced("results/default.json", '"processor": "', '"processor": "A better '), "the log of"),
        (altered("history", "train_loss", lambda old: old + 1e-4), "results/steps.csv"),
        (altered("history", "train_loss", lambda old: old + 1e-4), "the log of results/default.json"),
        (replaced("results/default.json", '"minutes": ', '"minutes": 1'), "the log of results/default.json"),
        (
            replaced("results/default.json", '"best_epoch": ', '"best_epoch": 1'),
            "results/default.json: train",
        ),
        (replaced("README.md", "95 %", "96 %"), "README.md"),
        (replaced("docs/results.md", "95 %", "96 %"), "docs/results.md"),
    ],
)
def test_a_figure_that_does_not_follow_is_named(here: Clone, alter: Callable[[], None], named: str) -> None:
    assert not (recomputed.check_evaluation() + recomputed.check_training() + recomputed.check_pages())
    alter()
    found = recomputed.check_evaluation() + recomputed.check_training() + recomputed.check_pages()
    assert any(named in line for line in found), found


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (altered("predictions", "confidence", lambda old: old + 3e-4), "answer 100 otherwise"),
        (altered("predictions", "prediction", lambda old: old.replace("cross", "ring")), "otherwise"),
        (altered("predictions", "confidence", lambda old: old * float("nan")), "answer 100 otherwise"),
        (altered("predictions", "loss", lambda old: old * 0.99), "otherwise"),
        (altered("predictions", "label", lambda old: old.iloc[::-1].set_axis(old.index)), "has other labels"),
    ],
)
def test_answers_that_the_weights_do_not_give_are_found(
    here: Clone, alter: Callable[[], None], named: str
) -> None:
    stages = lock.read()
    assert not verify.check_weights(stages, 0, full=True).differs
    alter()
    assert named in str(verify.check_weights(stages, 0, full=False).differs)


def rewritten(
    change: Callable[[dict[str, Any]], object], describe: Callable[[dict[str, Any]], object]
) -> Callable[[], None]:
    def rewrite() -> None:
        weights, about = files.read_tensors(files.MODEL)
        change(weights)
        describe(about)
        files.write_tensors(files.MODEL, weights, about)

    return rewrite


@pytest.mark.parametrize(
    ("rewrite", "named"),
    [
        # All classes equally probable within the tolerance, so that any would do.
        (
            rewritten(lambda weights: (weights["fc.weight"].mul_(1e-5), weights["fc.bias"].mul_(1e-5)), dict),
            "",
        ),
        (rewritten(lambda weights: weights["fc.bias"].fill_(float("nan")), dict), "answer 100 otherwise"),
        (rewritten(dict, lambda about: about["classes"].reverse()), "another network"),
        (rewritten(dict, lambda about: about["normalization"].update(std=[1, 1, 1])), "another network"),
    ],
)
def test_weights_that_were_made_for_the_check_are_found(
    here: Clone, rewrite: Callable[[], None], named: str
) -> None:
    rewrite()
    table = files.read_table("predictions")
    table["confidence"], table["loss"], table["prediction"] = 0.1, 2.302585, table["label"]
    if not named:
        files.write_table("predictions", table)
    assert (named or "otherwise") in str(verify.check_weights(lock.read(), 0, full=False).differs)


def test_a_run_ends_in_its_own_weights_only(here: Clone) -> None:
    run = first_steps.Run(first_steps.PLAIN)
    run.state.best_weights, _ = files.read_tensors(files.MODEL)
    assert run.ends_in(files.MODEL)
    run.state.best_weights["fc.bias"] = run.state.best_weights["fc.bias"] + 1e-6
    assert not run.ends_in(files.MODEL)


def test_a_lock_that_names_less_and_files_that_take_the_place_of_others_are_found(here: Clone) -> None:
    stages = lock.read()
    stages["train"]["deps"] = [entry for entry in stages["train"]["deps"] if "training" not in entry["path"]]
    assert "train depends on other code than in dvc.lock" in str(lock.changed_code(stages, "train"))
    stages = lock.read()
    del stages["duplicates"]["params"]
    assert "duplicates is not the stage that ran" in str(lock.changed_settings(stages, "duplicates"))
    (here.folder / "secrets.py").write_text("def randbelow(n):\n    return 0\n")
    lock.git("add", "--force", "secrets.py", "data/tensors/val.safetensors")
    assert [line.split()[0] for line in verify.foreign()] == ["Git", "secrets"]


def test_without_a_published_run_the_parts_say_what_is_missing(here: Clone) -> None:
    stages = {name: stage for name, stage in lock.read().items() if name in ("fetch", "preprocess")}
    findings = [
        verify.check_lock(stages),
        verify.check_figures(stages),
        verify.check_weights(stages, 0, full=False),
    ]
    assert all(finding.unseen and not finding.differs for finding in findings)
