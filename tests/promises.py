"""Write the tables of `docs/guide/reliability.md` from the tests marked `promise`: `python tests/promises.py`."""

from __future__ import annotations

import ast
from pathlib import Path


REPOSITORY = Path(__file__).parent.parent
# Sections in the order of the page; others follow.
SECTIONS = [
    "Stopping anywhere",
    "Safety",
    "Numbers",
    "Text",
    "Several processes",
    "Load and resources",
    "Compatibility",
]
PAGE = REPOSITORY / "docs" / "guide" / "reliability.md"


def promises() -> dict[str, dict[str, list[str]]]:
    """Section -> promise -> tests that check it, as pytest names them."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise":
                    section, text = (ast.literal_eval(argument) for argument in decorator.args)
                    name = f"{path.relative_to(REPOSITORY).as_posix()}::{node.name}"
                    found.setdefault(section, {}).setdefault(text, []).append(name)
    order = [*SECTIONS, *found]
    return {section: found[section] for section in sorted(found, key=order.index)}


def tables() -> str:
    """Every section with its table in Markdown."""
    parts = []
    for section, texts in promises().items():
        rows = [f"| {text} | {', '.join(f'`{name}`' for name in names)} |" for text, names in texts.items()]
        parts.append("\n".join([f"## {section}", "", "| Promise | Test |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition("<!-- promises -->\n")
    PAGE.write_text(f"{head}{mark}\n{tables()}", encoding="utf-8")
