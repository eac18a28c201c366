"""Write the lists in `docs/guide/reliability/` from the tests marked `promise`: `python tests/promises.py`."""

from __future__ import annotations

import ast
from pathlib import Path


REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / "docs" / "guide" / "reliability"
# Section -> its page and the first sentence there, in the order of the pages.
SECTIONS = {
    "Stopping anywhere": ("stopping", "Runs, saves and encodings that are killed or interrupted."),
    "Safety": ("safety", "Files and settings from people whom you do not trust, and your own secrets."),
    "Numbers": ("numbers", "Finite, correct and reproducible plans, losses, measures and training runs."),
    "Text": ("text", "Texts of any language, length and encoding, and damaged files of texts."),
    "Several processes": ("processes", "Training in several processes, and folders that several processes use."),
    "Load and resources": ("load", "Threads, busy services, full disks, and little memory."),
}


def promises() -> dict[str, dict[str, list[str]]]:
    """Section -> promise -> tests that check it, as pytest names them."""
    found: dict[str, dict[str, list[str]]] = {section: {} for section in SECTIONS}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise":
                    section, text = (ast.literal_eval(argument) for argument in decorator.args)
                    name = f"{path.relative_to(REPOSITORY).as_posix()}::{node.name}"
                    found[section].setdefault(text, []).append(name)
    return found


def pages() -> dict[str, str]:
    """Name of a page -> its Markdown: the promises, and below them, folded, the tests in the same order."""
    written = {}
    for section, texts in promises().items():
        name, about = SECTIONS[section]
        tests = [f"{number}. {', '.join(f'`{test}`' for test in texts[text])}" for number, text in enumerate(texts, 1)]
        written[f"{name}.md"] = "\n".join(
            [
                f"# {section}",
                "",
                about,
                "Each promise is checked by the test of the same number at the end of the page.",
                "",
                *(f"{number}. {text}" for number, text in enumerate(texts, 1)),
                "",
                '<details markdown="1">',
                "<summary>The tests</summary>",
                "",
                *tests,
                "",
                "</details>",
                "",
            ]
        )
    return written


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
