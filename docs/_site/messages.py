"""The error messages of the library, collected from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path


SOURCE = Path(__file__).parents[2] / "src" / "hf_optical"
# What no caller meets: methods to override, and attributes that do not exist, in Python's own words.
EXEMPT = {"NotImplementedError", "AttributeError"}
GAP = "…"


@dataclass(frozen=True)
class Message:
    """A message; `…` stands for what is filled in."""

    text: str
    kind: str
    place: str  # such as "bitext/loading.py"

    @property
    def room(self) -> str:
        return self.place.partition("/")[0].removesuffix(".py")

    @property
    def parts(self) -> tuple[str, str]:
        """What is wrong, and what to do, where the message says so."""
        wrong, _, cure = self.text.partition("; ")
        if not cure:
            wrong, _, cure = self.text.partition(". ")
        return wrong, cure


def messages() -> list[Message]:
    """Every message of a `raise` in the source, once for each file, in the order of the files."""
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    functions = {
        node.name: node for tree in files.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    found: dict[Message, None] = {}
    for path, tree in files.items():
        for kind, text in _raised(tree, functions):
            if re.search(r"\w.* .*\w{2}", text) and kind not in EXEMPT:
                found[Message(text, kind, path.relative_to(SOURCE).as_posix())] = None
    return list(found)


def _raised(tree: ast.Module, functions: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                kind = ast.unparse(node.exc.func)
                if kind.rpartition(".")[2][:1].islower():
                    # A function that makes the error, such as `self.error(place, message)`.
                    kind = "DataError" if kind.startswith(("self.", "_")) else "Exception"
                # The first argument of `self.error` is the place.
                for argument in node.exc.args[-1:] if kind == "DataError" else node.exc.args:
                    for text in _texts(argument, [function, tree], functions):
                        yield kind, text
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "check_keys" and len(node.args) > 2:
                cures = [*_texts(node.args[3], [function, tree], functions)] if len(node.args) > 3 else [""]
                for problem in _texts(node.args[2], [function, tree], functions):
                    yield "DataError", f"{problem} {GAP}, only {GAP}{cures[0]}"


def _texts(node: ast.expr, scopes: list[ast.AST], functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """The texts that an expression may have."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield from ("".join(parts) for parts in product(*(_pieces(part, scopes, functions) for part in node.values)))
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, scopes, functions)
        yield from _texts(node.orelse, scopes, functions)
    elif isinstance(node, ast.BinOp):
        for left in _texts(node.left, scopes, functions):
            for right in _texts(node.right, scopes, functions):
                yield left + right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        for text in _texts(node.func.value, scopes, functions):
            yield re.sub(r"{\w*}", GAP, text)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
        maker = functions[node.func.id]
        for each in ast.walk(maker):
            if isinstance(each, ast.Return) and each.value is not None:
                yield from _texts(each.value, [maker], {})
    elif isinstance(node, ast.Name):
        for scope in scopes:
            values = [
                each.value
                for each in ast.walk(scope)
                if isinstance(each, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == node.id for t in each.targets)
            ]
            for value in values:
                if not isinstance(value, ast.Name):
                    yield from _texts(value, [], functions)
            if values:
                return


def _pieces(part: ast.expr, scopes: list[ast.AST], functions: dict[str, ast.FunctionDef]) -> list[str]:
    """The texts of a part of an f-string: of a name that was given the result of a function with `:=`, all of them."""
    if isinstance(part, ast.Constant):
        return [str(part.value)]
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and scopes:
        for each in ast.walk(scopes[0]):
            if isinstance(each, ast.NamedExpr) and each.target.id == part.value.id:
                return [*_texts(each.value, scopes, functions)] or [GAP]
    return [GAP]


def page(explained: dict[str, str]) -> str:
    """
    All messages in Markdown, by subpackage.

    Args:
        explained (mapping of `str` to `str`): Beginning of a message -> the page that explains it.
    """
    lines = [
        "# All messages",
        "",
        f"Every message that the library raises, by subpackage. `{GAP}` stands for what a message fills in. The "
        "text after the arrow says what to do.",
    ]
    room = ""
    for message in messages():
        if message.room != room:
            room = message.room
            lines += ["", f"## {room}", ""]
        wrong, cure = message.parts
        link = next((link for text, link in explained.items() if message.text.startswith(text)), None)
        more = f" → {cure.replace('<', '&lt;')}" if cure else ""
        see = f" ([explanation]({link}))" if link else ""
        lines.append(f"- `` {wrong} `` *{message.kind}*{more}{see}")
    return "\n".join(lines) + "\n"


def explained(pages: dict[str, str]) -> dict[str, str]:
    """The beginnings of messages in the headings of Markdown pages -> name of the page."""
    found = {}
    for name, text in pages.items():
        for _, heading in re.findall(r"^### (`+) ?(.+?) ?\1$", text, flags=re.MULTILINE):
            found[heading] = name
    return found
