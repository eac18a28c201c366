from __future__ import annotations

import os
from collections.abc import Sequence

from .parser import Parser


DESCRIPTION = """\
Search an index over HTTP, with packs of many languages.

    hf-optical serve --index outputs/index --pack outputs/ha outputs/sw
    curl localhost:8000/search --json '{"questions": [{"text": "Malaria huenezwa na nini?", "language": "sw"}]}'

The page /docs lists all requests. It needs an extra: pip install "hf_optical[serve]"
"""
TOKEN = "HF_OPTICAL_SERVE_TOKEN"


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.input_errors():
        from ..serving import Limits, serve

        limits = Limits(
            batch_size=args.batch_size,
            max_questions=args.max_questions,
            max_top_k=args.max_top_k,
            # There is no option for it, and a full request must fit.
            max_waiting=max(Limits.max_waiting, args.max_questions),
        )
        address = {"host": args.host, "port": args.port}
        serve(args.index, args.pack, base_model=args.base, limits=limits, token=os.environ.get(TOKEN), **address)


def make_parser() -> Parser:
    parser = Parser("serve", DESCRIPTION, usage="hf-optical serve --index INDEX [options]")
    parser.add_argument("--index", required=True, metavar="INDEX", help="index made by `hf-optical index`")
    parser.add_argument(
        "--pack",
        nargs="+",
        default=[],
        metavar="PACK",
        help="folders or Hub ids of packs of one base; questions that name no language are in the first one's "
        f"(default: the bare base). With a secret in the variable {TOKEN}, packs can be opened and closed later",
    )
    parser.add_argument("--base", metavar="BASE", help="folder or Hub id of the base, if it has been moved")
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1; 0.0.0.0: all)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port (default: 8000)")
    group = parser.add_argument_group("limits")
    group.add_argument("--batch_size", type=int, default=64, metavar="N", help="questions at once (default: 64)")
    group.add_argument("--max_questions", type=int, default=64, metavar="N", help="per request (default: 64)")
    group.add_argument("--max_top_k", type=int, default=100, metavar="K", help="per question (default: 100)")
    return parser
