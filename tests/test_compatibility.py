"""What is asked for, what was tested, and the Pythons that both are for."""

from __future__ import annotations

import re

import pytest
from compatibility import OLDEST_PYTHON, above_bounds, bounds
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import REPOSITORY


@pytest.mark.promise(
    "Compatibility",
    "What `constraints.txt` names is within the bounds of `setup.py`, one version for each Python; the oldest Python "
    "that is tested is the one that `setup.py` admits.",
)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_the_constraints_are_within_the_bounds(python):
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, list[str]] = {}
    for pin in (Requirement(line) for line in lines if not line.startswith("#")):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    assert all(len(versions) == 1 for versions in pins.values())
    for one in bounds():
        for version in pins.get(canonicalize_name(one.name), []):
            assert version in one.specifier, one


def test_bounds_that_were_not_reached_are_told():
    (found,) = above_bounds({"transformers": "999", "numpy": "1.0", "torch": "999"})
    assert found.startswith("transformers 999 (")


def test_the_oldest_python_is_that_of_setup():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    asked = SpecifierSet(re.search('python_requires="(.*)"', setup)[1])
    assert f"3.{OLDEST_PYTHON}" in asked and f"3.{OLDEST_PYTHON - 1}" not in asked
