from __future__ import annotations

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from .parser import Parser


# Name of a subcommand and of its module here -> what it does. A module is imported when its command runs.
COMMANDS = {
    "train": "teach a retriever a language from sentence pairs",
    "compare": "run a study of several methods and write a report",
    "base": "center the vectors of a base, or make them smaller",
    "index": "encode documents and keep them in a folder",
    "encode": "encode a large corpus on many machines",
    "search": "find documents for questions",
    "tune": "choose the strength of a pack for the documents",
    "evaluate": "measure retrieval on a test set",
    "push": "upload a pack, model, retriever or study to the Hub",
    "serve": "search an index over HTTP",
    "demo": "open a page to search and to look at alignments",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `hf-optical` with the arguments of this process, or with `argv`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = Parser("", usage="hf-optical COMMAND [options]")
    parser.description = "Teach a late-interaction retriever a new language, and search with it."
    parser.add_argument("--version", action="version", version=__version__)
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
    parser.epilog = f"commands:\n{listed}\n\n`hf-optical COMMAND --help` lists the options of a command."
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=SUPPRESS)
    args = parser.parse_args(argv[:1])
    try:
        import_module(f".{args.command}", __package__).main(argv[1:])
    except KeyboardInterrupt:
        sys.exit("\nstopped")
