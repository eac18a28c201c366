"""Requirements, constraints and supported Python versions agree."""

from __future__ import annotations

import re

from compatibility import OLDEST_PYTHON, above_bounds, bounds
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import REPOSITORY


def test_constraints_are_within_bounds():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for python in ("3.10", "3.13"):
        pins: dict[str, list[str]] = {}
        for pin in (Requirement(line) for line in lines if not line.startswith("#")):
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
        assert all(len(versions) == 1 for versions in pins.values())
        for one in bounds():
            for version in pins.get(canonicalize_name(one.name), []):
                assert version in one.specifier, one


def test_unreachable_bounds_are_listed():
    (found,) = above_bounds({"transformers": "999", "numpy": "1.0", "torch": "999"})
    assert found.startswith("transformers 999 (")


def test_oldest_python_is_that_of_setup():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    required = SpecifierSet(re.search('python_requires="(.*)"', setup)[1])
    assert f"3.{OLDEST_PYTHON}" in required and f"3.{OLDEST_PYTHON - 1}" not in required


def test_pre_commit_has_the_ruff_version_of_the_constraints():
    (pinned,) = re.findall(r"^ruff==(.*)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert f"rev: v{pinned}\n" in (REPOSITORY / ".pre-commit-config.yaml").read_text()
