"""The parser of all subcommands: short help, and errors in one line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..errors import exit_on_error


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=110)


def columns(args: argparse.Namespace) -> dict[str, Any]:
    """The columns of documents that [`Parser.add_columns`] named, as arguments of [`read_documents`]."""
    return {name: getattr(args, name) for name in ("id_column", "text_column", "title_column")}


class Parser(argparse.ArgumentParser):
    """An `argparse` parser of a subcommand, whose errors are one line."""

    def __init__(self, command: str, description: str = "", usage: str | None = None, **kwargs):
        prog = f"hf-optical {command}".strip()
        super().__init__(
            prog, usage=usage, description=description, formatter_class=_Formatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}; see `{self.prog} --help`\n")

    def add_columns(self, group: argparse._ArgumentGroup) -> None:
        """Add the options that name the columns of documents."""
        group.add_argument("--text_column", default="text", metavar="NAME", help="column of the texts (default: text)")
        group.add_argument("--title_column", default="title", metavar="NAME", help="column of titles (default: title)")
        group.add_argument(
            "--id_column",
            metavar="NAME",
            help="column of the ids (default: _id or id; otherwise documents are numbered)",
        )

    @contextmanager
    def input_errors(self) -> Iterator[None]:
        """Exit with one line, which names flags, on errors that wrong input causes."""
        flags = {action.dest: action.option_strings[-1] for action in self._actions if action.option_strings}
        with exit_on_error(OSError, ValueError, KeyError, ImportError, flags=flags):
            yield
