"""`make verify` at a small size: it passes on a locked run, and names what was changed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cifar_resnet import files
from cifar_resnet.errors import UserError
from tests.conftest import Clone
from tools import lock, recomputed, scratch, verify

VERIFY = ("python", "-m", "tools.verify")
MODEL = "models/resnet50.safetensors"
TRAINING = "src/cifar_resnet/training"


@pytest.fixture(scope="module")
def made(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The finished clone with its record, as it is published. Whoever changes anything takes a copy."""
    clone = finished.copy(tmp_path_factory.mktemp("published"))
    clone.run("python", "-m", "tools.results", "--record")
    clone.run(*VERIFY, "--record")
    scratch.commit(clone.folder, "published")
    return clone


@pytest.fixture
def published(made: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy of the published clone, the working folder of this process."""
    clone = made.copy(tmp_path)
    monkeypatch.chdir(clone.folder)
    return clone


def verdicts(printed: str) -> dict[str, str]:
    return {name: verdict for verdict, name in re.findall(r"^(PASS|FAIL|----)  (\w+)", printed, re.MULTILINE)}


def differs(part: lock.Findings) -> str:
    return "\n".join(verify.collect(part)["FAIL"])


def test_a_published_run_is_repeated_to_the_last_digit_and_nothing_is_written(published: Clone) -> None:
    log = published.read("logs/train.jsonl")
    printed = published.run(*VERIFY, "--epochs", "3", "--full")
    assert set(verdicts(printed).values()) == {"PASS"}
    assert "every digit as recorded on" in printed
    assert "3 epochs are identical" in printed
    assert not published.run("git", "status", "--porcelain")
    assert published.read("logs/train.jsonl") == log
    weights, about = files.read_tensors(published.folder / MODEL)
    weights["fc.bias"] += 1e-7
    files.write_tensors(published.folder / MODEL, weights, about)
    assert "2 epochs are identical" in published.run(*VERIFY, "--epochs", "2", status=1)
    assert "or other weights" in published.run(*VERIFY, "--epochs", "3", status=1)


def test_another_recipe_in_the_code_is_found(published: Clone) -> None:
    published.edit(f"{TRAINING}/optimizer.py", '"weight_decay": config', '"weight_decay": 1.01 * config')
    printed = published.run(*VERIFY, status=1)
    assert verdicts(printed) == {"lock": "FAIL", "figures": "PASS", "weights": "PASS", "steps": "FAIL"}
    assert f"{TRAINING}/optimizer.py is not what train ran with: `make harmless`" in printed
    assert "the first steps are not those of this very processor" in printed


def test_first_steps_of_other_params_confirm_nothing(published: Clone) -> None:
    for path in ("params.yaml", "dvc.lock", "results/default.json"):
        text = published.read(path).decode()
        (published.folder / path).write_text(re.sub(r'(weight_decay"?: [0-9.]+)', r"\g<1>0001", text))
    assert "no first steps are recorded for these params" in published.run(*VERIFY, status=3)


def test_another_processor_agrees_within_rounding_and_finds_another_rate(published: Clone) -> None:
    for path in ("results/default.json", "results/default.log.jsonl"):
        published.edit(path, '"instructions": "', '"instructions": "another than ')
    recorded = published.folder / "results/verify.json"
    row = json.loads(recorded.read_text())[-1] | {"instructions": "another"}
    other = row | {"totals": [[loss + 1e-6, correct] for loss, correct in row["totals"]]}
    recorded.write_text(json.dumps([row, other]))
    published.run("python", "-m", "tools.results")  # the page names the processor
    assert "agrees: in float32" in published.run(*VERIFY)
    published.edit(f"{TRAINING}/loop.py", "config.optimizer.lr *", "1.01 * config.optimizer.lr *")
    assert "the loss after step 2 is off by" in published.run(*VERIFY, status=1)


def test_what_is_missing_is_fetched_or_named(published: Clone) -> None:
    for path in (MODEL, "data/tensors/val.safetensors"):
        (published.folder / path).unlink()
    printed = published.run(*VERIFY)
    assert f"missing, so `dvc pull --force -r released {MODEL}` runs" in printed
    assert set(verdicts(printed).values()) == {"PASS"}
    (published.folder / MODEL).unlink()
    published.run("rm", "-r", ".dvc/cache")
    printed = published.run(*VERIFY, status=3)
    assert verdicts(printed)["weights"] == "----"
    assert f"{MODEL} is missing: `dvc pull --force -r released" in printed
    published.edit("src/cifar_resnet/data/split.py", '"""', '"""More. ')
    (published.folder / "data/tensors/val.safetensors").unlink()
    before = published.read("dvc.lock")
    printed = published.run(*VERIFY, status=1)
    assert "src/cifar_resnet/data/split.py is not what preprocess ran with: `dvc repro preprocess`" in printed
    assert published.read("dvc.lock") == before


def test_steps_are_recorded_only_on_a_machine_that_repeats_the_published_epoch(published: Clone) -> None:
    first = published.read("plots/history.csv").decode().splitlines()[1]
    published.edit("plots/history.csv", first, first.replace("0.", "0.1", 1))
    assert "epoch 1 is not the one of plots" in published.run(*VERIFY, "--record", status=1)


def test_the_digests_of_files_and_folders_are_those_of_dvc(published: Clone) -> None:
    stages = lock.locked()
    for stage in stages.values():
        assert lock.digests(stage.code) == lock.digests(stage.code, "HEAD") == stage.code
    (published.folder / TRAINING / ".loop.py.swp").write_text("an editor's")
    wanted = stages["train"].code
    assert lock.digests(wanted) == wanted
    published.edit(f"{TRAINING}/loop.py", '"""', '"""More. ')
    scratch.commit(published.folder, "an edit")
    assert lock.digests(wanted, "HEAD") != wanted
    assert lock.digests(wanted, lock.base(wanted)) == wanted


def test_the_lock_is_held_against_everything_that_it_names(published: Clone) -> None:
    stages = dict(lock.locked())
    assert not differs(verify.check_lock(stages))
    published.edit("metrics/test.json", '"test_loss": ', '"test_loss": 1')
    published.edit("params.yaml", "patience: 10", "patience: 9")
    published.edit("dvc.yaml", "cmd: python -m stages.export", "cmd: python -O -m stages.export")
    (published.folder / "plots/confusion.png").unlink()
    assert [line.split(":")[0] for line in differs(verify.check_lock(stages)).splitlines()] == [
        *("params.yaml", "dvc.yaml", "params.yaml"),  # of train, of export twice
        *("metrics/test.json is not the one in dvc.lock", "plots/confusion.png is not the one in dvc.lock"),
    ]
    train = stages["train"]
    stages["train"] = train._replace(data=dict.fromkeys(train.data, "0" * 32))
    assert "val.safetensors was another file when train read it" in str(list(lock.outdated(stages, "train")))
    stages["train"] = train._replace(code={path: train.code[path] for path in train.code if "tr" not in path})
    assert "train depends on other code than in dvc.lock" in str(list(lock.outdated(stages, "train")))
    stages["train"] = train._replace(params={})
    assert "train is not the stage that ran" in str(list(lock.outdated(stages, "train")))
    (published.folder / "dvc.lock").unlink()
    with pytest.raises(UserError, match=r"no run of duplicates, evaluate, export, .* `dvc repro` makes it"):
        lock.locked()


Change = Callable[["pd.Series[Any]"], "pd.Series[Any]"] | str


def alter(path: str, column: str, change: Change) -> None:
    """Change a column of a CSV, or replace `column` by a text in another file."""
    if isinstance(change, str):
        Clone(Path(), Path()).edit(path, column, change)
    else:
        table = files.read_csv(Path(path))
        table[column] = change(table[column])
        files.write_csv(Path(path), table)


PREDICTIONS, RUN = "plots/predictions.csv", "results/default.json"


@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("metrics/test.json", '"test_loss": ', '"test_loss": 1', 'metrics/test.json .*"test_loss"'),
        ("metrics/test.json", '"test_f1": 0.', '"test_f1": 0.1', 'metrics/test.json .*"test_f1"'),
        ("metrics/test.json", '"test_deduplicated": 0', '"test_deduplicated": 1', '"test_deduplicated"'),
        ("metrics/test.json", "{", '{"test_more": 1,', "metrics/test.json "),
        ("metrics/train.json", '"best_epoch": ', '"best_epoch": 1', "metrics/train.json "),
        ("metrics/duplicates.json", '"duplicates": ', '"duplicates": 1', "metrics/duplicates.json "),
        (PREDICTIONS, "confidence", lambda old: old.clip(upper=0.1), 'metrics/test.json .*"test_ece"'),
        (PREDICTIONS, "index", lambda old: old.replace(3, 4), "each of the 100 test images once"),
        (PREDICTIONS, "prediction", lambda old: old.iloc[::-1].set_axis(old.index), "plots/confusions.csv "),
        ("plots/subsets.csv", "accuracy", lambda old: old + 0.01, "plots/subsets.csv "),
        ("plots/history.csv", "train_loss", lambda old: old + 1e-4, "results/steps.csv "),
        ("plots/history.csv", "train_loss", lambda old: old + 1e-4, f'{RUN} .*"runs"'),
        (RUN, '"width": 4', '"width": 8', f'{RUN} .*"recipe"'),
        (RUN, '"processor": "', '"processor": "A better ', f'{RUN} .*"runs"'),
        (RUN, '"minutes": ', '"minutes": 1', f'{RUN} .*"runs"'),
        (RUN, '"best_epoch": ', '"best_epoch": 1', f'{RUN} .*"runs"'),
        ("README.md", "95 %", "96 %", "README.md "),
        ("docs/results.md", "95 %", "96 %", "docs/results.md "),
    ],
)
def test_a_figure_that_does_not_follow_is_named(
    published: Clone, path: str, old: str, new: Change, named: str
) -> None:
    assert not differs(recomputed.check_figures())
    alter(path, old, new)
    assert re.search(named, differs(recomputed.check_figures()))


def test_nan_follows_from_nothing(published: Clone) -> None:
    alter(PREDICTIONS, "loss", lambda old: old * float("nan"))
    files.write_metrics("test", files.read_metrics("test") | {"test_loss": float("nan")})
    assert '"test_loss"' in differs(recomputed.check_figures())


@pytest.mark.parametrize(
    ("column", "change", "named"),
    [
        ("confidence", lambda old: old + 3e-4, "answer 100 otherwise"),
        ("prediction", lambda old: old.replace("cross", "ring"), "otherwise"),
        ("confidence", lambda old: old * float("nan"), "answer 100 otherwise"),
        ("loss", lambda old: old * 0.99, "otherwise"),
        ("label", lambda old: old.iloc[::-1].set_axis(old.index), "has other labels"),
    ],
)
def test_answers_that_the_weights_do_not_give_are_found(
    published: Clone, column: str, change: Change, named: str
) -> None:
    stages = lock.locked()
    assert not differs(verify.check_weights(stages, 0, full=True))
    alter(PREDICTIONS, column, change)
    assert named in differs(verify.check_weights(stages, 0, full=False))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        # All classes equally probable within the tolerance, so that any would do.
        (lambda weights, _: (weights["fc.weight"].mul_(1e-5), weights["fc.bias"].mul_(1e-5)), "otherwise"),
        (lambda weights, _: weights["fc.bias"].fill_(float("nan")), "NaN, infinite"),
        (lambda _, about: about["classes"].reverse(), "another network"),
        (lambda _, about: about["normalization"].update(std=[1, 1, 1]), "another network"),
    ],
)
def test_weights_that_were_made_for_the_check_are_found(
    published: Clone, change: Callable[[dict[str, Any], dict[str, Any]], object], named: str
) -> None:
    weights, about = files.read_tensors(files.MODEL)
    change(weights, about)
    files.write_tensors(files.MODEL, weights, about)
    table = files.read_table("predictions")
    if named == "otherwise":
        table["confidence"], table["loss"], table["prediction"] = 0.1, 2.302585, table["label"]
        files.write_table("predictions", table)
    assert named in differs(verify.check_weights(lock.locked(), 0, full=False))
