"""The site builds without a warning: no dead links or anchors, and a place in the reference for every public name."""

from __future__ import annotations

import ast
import importlib
import sys

import pytest
from tiny import REPOSITORY

import hf_optical


# Python warns about libraries of the site.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
sys.path.insert(0, str(REPOSITORY / "docs" / "_site"))

import docstrings  # noqa: E402


def test_site_holds_every_public_name_and_loads_nothing_from_elsewhere(site):
    rooms = [path.parent for path in (REPOSITORY / "src" / "hf_optical").glob("*/__init__.py")]
    rooms = [importlib.import_module(f"hf_optical.{room.name}") for room in rooms]
    names = {f"{room.__name__}.{name}" for room in rooms for name in getattr(room, "__all__", ())}
    assert len(names) > 150
    pages = {path.parent.name: path.read_text("utf-8") for path in (site / "reference").glob("*/index.html")}
    missing = [name for name in names if f'id="{name}"' not in pages.get(name.rpartition(".")[0], "")]
    assert not missing
    front = (site / "reference" / "index.html").read_text("utf-8")
    assert all(f"#hf_optical.{name}" in front or f".{name}" in front for name in hf_optical.__all__ if name[0] != "_")
    tutorial = (site / "tutorial" / "from_texts_to_search" / "index.html").read_text("utf-8")
    assert "<th>Training Loss</th>" in tutorial and "&lt;" not in tutorial, "an output is shown as HTML code"
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "fonts.googleapis" not in text and "cdn." not in text, f"{page} loads from elsewhere"


DOCSTRING = """
Measure a thing; see [`~room.Thing`] and [`list`].

Args:
    one (`int`, *optional*, defaults to `"a: b"`):
        First line.

        - a list
    two (`Tensor` of shape `(a, b)`), three (`float`, defaults
        to 1.0): Both.

Raises:
    ValueError: If it is wrong,
        or late.

Example:

```python
>>> measure("[`Thing`]")
```
"""
MARKDOWN = """Measure a thing; see [`Thing`][hf_optical.room.Thing] and `list`.

**Parameters**
{ .docstring-section }

`one` (`int`, *optional*, defaults to `"a: b"`)
:   First line.

    - a list

`two` (`Tensor` of shape `(a, b)`), `three` (`float`, defaults to 1.0)
:   Both.

**Raises**
{ .docstring-section }

`ValueError`
:   If it is wrong,
    or late.

**Example**
{ .docstring-section }

```python
>>> measure("[`Thing`]")
```
"""


def test_docstrings_keep_shapes_defaults_and_lists():
    pages = {"room.Thing": "hf_optical.room.Thing"}
    written = docstrings.markdown(DOCSTRING, pages.get)
    assert [line.rstrip() for line in written.splitlines()] == MARKDOWN.splitlines()


def test_entries_of_docstrings_are_understood():
    """Every entry of a list in a docstring starts with names or errors, followed by a colon."""
    for path in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
                for part in docstrings.markdown(text, lambda name: None).split("**\n{ .docstring-section }\n\n")[1:]:
                    head = part.partition("\n")[0]
                    assert not head.endswith(":"), f"{path}: {node.name}: {head}"
