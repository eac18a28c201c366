from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import Parser


DESCRIPTION = """\
Open a page that searches documents with a pack and draws which words transport aligns.

    hf-optical demo --pack outputs/sw --documents corpus.jsonl

It needs two extras: pip install "hf_optical[demo,space]"
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.input_errors():
        from ..space import open_page

        open_page(args.pack, args.documents, args.port)


def make_parser() -> Parser:
    parser = Parser("demo", DESCRIPTION, usage="hf-optical demo --pack PACK --documents FILE [options]")
    parser.add_argument(
        "--pack",
        nargs="+",
        required=True,
        metavar="PACK",
        help="folders or Hub ids of packs of one base",
    )
    parser.add_argument(
        "--documents",
        type=Path,
        required=True,
        metavar="FILE",
        help="documents to search, JSON lines with _id, title and text; the questions of a queries.jsonl next to it "
        "become examples",
    )
    parser.add_argument("--port", type=int, metavar="N", help="port to listen on (default: the first free from 7860)")
    return parser
