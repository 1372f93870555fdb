"""The list of deliberate faults fits the code and the tests."""

import ast

from tests import faults
from tools.scratch import ROOT


def test_every_fault_can_be_made_and_its_test_exists() -> None:
    entries = faults.read()
    assert len({fault["what"] for fault in entries}) == len(entries) > 50
    for fault in entries:
        text = (ROOT / fault["file"]).read_text()
        assert text.count(fault["find"]) == 1, fault["what"]
        assert fault["put"] != fault["find"], fault["what"]
        if fault["file"].endswith(".py"):
            ast.parse(text.replace(fault["find"], fault["put"]))
        file, function = fault["test"].split("[")[0].split("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(), fault["what"]
