"""The code in the README runs as it is, and its drawing matches the package."""

from __future__ import annotations

import re

from tiny import REPOSITORY


README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_snippets_run(tmp_path, monkeypatch):
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(snippets) == 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    scope: dict = {"__name__": "readme"}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), scope)
    assert scope["hit"].document == 1
    assert scope["SentenceMSETrainer"].__bases__ == (scope["OTDistillationTrainer"],)


def test_the_drawing_is_true():
    drawn = re.findall(r"^  (\w+)(/|\.py) ", README, flags=re.MULTILINE)
    rooms = {name + ending for name, ending in drawn}
    package = REPOSITORY / "src" / "hf_optical"
    there = {path.name + ("/" if path.is_dir() else "") for path in package.iterdir() if not path.name.startswith("_")}
    # Small files at the root serve every room.
    small = {"py.typed", "checks.py", "errors.py", "options.py"}
    assert rooms == {name for name in there if not name.endswith("egg-info")} - small


def test_rooms_import_only_from_those_above():
    floors = [name for name, _ in re.findall(r"^  (\w+)(/|\.py) ", README, flags=re.MULTILINE)]
    package = REPOSITORY / "src" / "hf_optical"
    for floor, room in enumerate(floors):
        files = (package / room).glob("*.py") if (package / room).is_dir() else [package / f"{room}.py"]
        for file in files:
            text = file.read_text(encoding="utf-8")
            for dots, name in re.findall(r"^\s*from (\.+)(\w*)", text, flags=re.MULTILINE):
                inside = file.parent == package
                if (len(dots) == 2 or inside) and name in floors and name != room:
                    assert floors.index(name) < floor, f"{file.name} in {room} imports from {name}"
