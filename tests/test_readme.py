"""The code in the README runs as it is, and the drawing of the architecture matches the package."""

from __future__ import annotations

import re

from packs import untrained_pack
from tiny import REPOSITORY


README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (REPOSITORY / "docs" / "maintainers" / "architecture.md").read_text(encoding="utf-8")


def test_snippet_runs(tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    untrained_pack("sw").save_pretrained("outputs/sw")
    scope: dict = {"__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), scope)
    assert scope["hit"].document == 1


def test_the_drawing_is_true():
    drawn = re.findall(r"^  (\w+)(/|\.py) ", ARCHITECTURE, flags=re.MULTILINE)
    rooms = {name + ending for name, ending in drawn}
    package = REPOSITORY / "src" / "hf_optical"
    there = {path.name + ("/" if path.is_dir() else "") for path in package.iterdir() if not path.name.startswith("_")}
    # Small files at the root serve every room.
    small = {"py.typed", "checks.py", "errors.py", "options.py"}
    assert rooms == {name for name in there if not name.endswith("egg-info")} - small


def test_rooms_import_only_from_those_above():
    floors = [name for name, _ in re.findall(r"^  (\w+)(/|\.py) ", ARCHITECTURE, flags=re.MULTILINE)]
    package = REPOSITORY / "src" / "hf_optical"
    for floor, room in enumerate(floors):
        files = (package / room).glob("*.py") if (package / room).is_dir() else [package / f"{room}.py"]
        for file in files:
            text = file.read_text(encoding="utf-8")
            for dots, name in re.findall(r"^\s*from (\.+)(\w*)", text, flags=re.MULTILINE):
                inside = file.parent == package
                if (len(dots) == 2 or inside) and name in floors and name != room:
                    assert floors.index(name) < floor, f"{file.name} in {room} imports from {name}"
