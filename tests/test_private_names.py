"""What we use of PyTorch and DVC although they promise nothing about it: a new release breaks here first."""

import pkgutil
import re

import pytest

from tools.scratch import ROOT


def test_private_names_are_still_there() -> None:
    used = []
    for path in (path for folder in ("src", "stages", "tools") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        names = re.findall(r"\b((?:torch|nn)(?:\.\w+)*\._[a-zA-Z]\w*)", text)
        names += map(":".join, re.findall(r"from (dvc[\w.]*) import (\w+)", text))  # only dvc.api is public
        used += [(re.sub(r"^nn\b", "torch.nn", name), path.relative_to(ROOT)) for name in names]
    assert len(used) > 2
    for name, path in used:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            pytest.fail(f"{path} needs {name}: {error}")
