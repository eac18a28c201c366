"""
Render docstrings written as in transformers: a griffe extension, since griffe's own styles lose shapes and defaults.

Sections become definition lists, and [`Name`] becomes a link to the page of `Name`. A name that is neither in the
library nor of a library that its docstrings may mention is a warning, which fails a strict build.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any

import griffe


PACKAGE = "hf_optical"
# Libraries whose names are shown as code; a build fetches no inventories.
EXTERNAL = {"datasets", "huggingface_hub", "pathlib", "peft", "torch", "transformers"}

_LISTS = {"Args": "Parameters", "Attributes": "Attributes", "Inputs": "Inputs", "Raises": "Raises"}
_TEXTS = {
    **{title: title for title in ("Returns", "Yields", "Example", "Examples")},
    # As in sentence-transformers.
    **{title: title for title in ("References", "Requirements", "Recommendations", "Relations")},
}
_REFERENCE = re.compile(r"\[`(~?)([\w.]+?)(\(\))?`\](?![\[(])")
# Below the logger of mkdocs, which counts warnings in a strict build.
_log = logging.getLogger("mkdocs.plugins.docstrings")


def rooms(package: griffe.Module) -> Iterator[griffe.Module]:
    """The package and its rooms, those with `__all__`."""
    yield package
    for room in sorted(package.modules.values(), key=lambda room: room.name):
        if not room.is_alias and room.exports:
            yield room


def public_names(room: griffe.Module) -> list[str]:
    """The names in `__all__` of a room. That of the package itself is built from the dictionary `_PUBLIC`."""
    names = [str(name) for name in room.exports or ()]
    if room.is_module and room.parent is None:
        names = [str(key).strip("'\"") for key in room["_PUBLIC"].value.keys]
    return names


def prefer_imported(package: griffe.Module) -> None:
    """Where a room imports a function from a module of the same name, let the name mean the function, as in Python."""
    for room in [*list(rooms(package))[1:], package]:
        for name in public_names(room):
            if room[name].is_module:
                target = package[room.imports[name].removeprefix(f"{PACKAGE}.")]
                # `set_member` would merge the two.
                room.members[name] = griffe.Alias(name, target, parent=room)


class Docstrings(griffe.Extension):
    """Rewrite every docstring of the package to Markdown."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        if pkg.name != PACKAGE:
            return
        links = Links(pkg)
        for thing in list(_objects(pkg)):
            if thing.docstring:
                thing.docstring.value = markdown(thing.docstring.value, lambda name, at=thing: links.find(name, at))
        prefer_imported(pkg)


def _objects(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from _objects(member)


class Links:
    """Find the page of a name in a docstring."""

    def __init__(self, package: griffe.Module):
        self.package = package
        # Path of the definition -> public path, which has the page.
        self.pages: dict[str, str] = {}
        self.by_name: dict[str, str] = {}
        for room in [*list(rooms(package))[1:], package]:
            for name in public_names(room):
                target = room[name].final_target if room[name].is_alias else room[name]
                self.pages.setdefault(target.path, f"{room.path}.{name}")
                self.by_name.setdefault(name, target.path)
        self.defined: dict[str, list[str]] = {}
        for thing in _objects(package):
            self.defined.setdefault(thing.name, []).append(thing.path)

    def find(self, name: str, at: griffe.Object) -> str | None:
        """The public path of a name in the docstring of `at`, or `None` if it has no page."""
        if name.split(".")[0] in EXTERNAL:
            return None
        path = self.path_of(name, at)
        if path is None:
            _log.warning(f"docstring of {at.path} mentions [`{name}`], which is not in {PACKAGE}")
            return None
        owner, _, member = path.rpartition(".")
        if path in self.pages:
            return self.pages[path]
        if owner in self.pages and not member.startswith("_"):
            return f"{self.pages[owner]}.{member}"
        return None

    def path_of(self, name: str, at: griffe.Object) -> str | None:
        head, _, rest = name.partition(".")
        places = [name.removeprefix(f"{PACKAGE}.")]
        if head in self.by_name:
            places.append(".".join(filter(None, [self.by_name[head].removeprefix(f"{PACKAGE}."), rest])))
        for place in places:
            found = self._at(self.package, place)
            if found:
                return found
        while True:  # outwards from the place of the docstring
            found = self._at(at, name)
            if found:
                return found
            if at.parent is None:
                break
            at = at.parent
        paths = set(self.defined.get(name, ()))
        return paths.pop() if len(paths) == 1 else None

    def _at(self, start: griffe.Object, path: str) -> str | None:
        try:
            for name in path.split("."):
                start = start.all_members[name]
                if start.is_alias:
                    start = start.final_target
        except (KeyError, griffe.AliasResolutionError):
            return None
        return start.path


def markdown(docstring: str, find: Any) -> str:
    """
    A docstring in Markdown.

    Args:
        docstring (`str`): The docstring, without indentation.
        find (callable): The path of the page of a name, or `None` where it has none.
    """
    parts, lines = [], inspect.cleandoc(docstring).splitlines()
    while lines:
        title = lines[0].removesuffix(":")
        if lines[0].endswith(":") and title in _LISTS | _TEXTS:
            end = next((i for i, line in enumerate(lines) if i and line and not line[0].isspace()), len(lines))
            # All lines have a margin here, also the first, which `cleandoc` would not count.
            body = inspect.cleandoc("\n" + "\n".join(lines[1:end]))
            if title in _LISTS:
                body = "\n\n".join(definition(entry) for entry in entries(body))
            heading = f"**{(_LISTS | _TEXTS)[title]}**\n{{ .docstring-section }}\n"
            # An example that is not indented follows by itself.
            parts.append(f"{heading}\n{body}\n" if body else heading)
            lines = lines[end:]
        else:
            parts.append(lines.pop(0))
    return outside_code("\n".join(parts), lambda text: _REFERENCE.sub(lambda match: link(match, find), text))


def entries(body: str) -> list[str]:
    """The entries of a section: each starts at the margin."""
    return [entry.rstrip() for entry in re.split(r"\n(?=\S)", body) if entry.strip()]


def definition(entry: str) -> str:
    """An entry, such as "name (`int`, *optional*): What it is.", as a definition."""
    end = _end_of_head(entry)
    if end is None:
        return entry
    head = " ".join(entry[:end].split())
    description = inspect.cleandoc(entry[end + 1 :])
    # Several parameters may share an entry.
    head = re.sub(r"(^|\), |^[\w*., ]*, )(\*{0,2}[\w.]+)(?= \(|, |$)", r"\1`\2`", head)
    indented = description.replace("\n", "\n    ").replace("    \n", "\n")
    return f"{head}\n:   {indented}"


def _end_of_head(entry: str) -> int | None:
    depth, code = 0, False
    for position, letter in enumerate(entry):
        if letter == "`":
            code = not code
        elif not code:
            depth += (letter in "([") - (letter in ")]")
            if letter == ":" and depth == 0 and entry[position + 1 : position + 2] in ("", " ", "\n"):
                return position
    return None


def link(match: re.Match, find: Any) -> str:
    short, name, call = match.groups()
    shown = name.rpartition(".")[2] if short else name
    path = find(name)
    return f"[`{shown}{call or ''}`][{path}]" if path else f"`{shown}{call or ''}`"


def outside_code(text: str, change: Any) -> str:
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else change(part) for part in parts)
