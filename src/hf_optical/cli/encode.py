from __future__ import annotations

import sys
from collections.abc import Sequence

from .parser import Parser, columns


DESCRIPTION = """\
Encode a large corpus into a Lance dataset, in processes of this machine or on a Ray cluster. If it is stopped, the
same command continues where it was.

    hf-optical encode --corpus corpus/*.jsonl.gz --output outputs/english
    hf-optical encode --corpus corpus/*.jsonl.gz --output s3://bucket/english --shards 4000 --ray auto

It needs extras: pip install "hf_optical[lance,ray]"
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    options = {name: getattr(args, name) for name in ("shards", "add", "restart", "dtype", "batch_size")}
    with parser.input_errors():
        from ..index.encoding_run import ShardsFailed, encode_corpus
        from ..index.tasks import Workers

        options["workers"] = Workers(args.ray, args.processes)
        try:
            count = encode_corpus(args.corpus, args.output, args.model, show_progress=True, **options, **columns(args))
        except ShardsFailed as error:
            sys.exit(f"error: {error}")
    print(f"{count:,} documents were encoded into {args.output}")


def make_parser() -> Parser:
    parser = Parser("encode", DESCRIPTION, usage="hf-optical encode --corpus FILE [FILE ...] --output URI [options]")
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--corpus",
        nargs="+",
        required=True,
        metavar="FILE",
        help="CSV, TSV, JSON lines or Parquet files, compressed or not, or quoted patterns",
    )
    parser.add_columns(group)
    group = parser.add_argument_group("dataset")
    group.add_argument("--output", required=True, metavar="URI", help="folder or s3://BUCKET/NAME of the dataset")
    group.add_argument("--add", action="store_true", help="add the documents to the dataset that is there")
    group.add_argument("--restart", action="store_true", help="forget an unfinished run and start from the beginning")
    group.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the vectors (default: float16)"
    )
    group = parser.add_argument_group("work")
    group.add_argument("--shards", type=int, metavar="N", help="number of tasks (default: 10,000 documents a task)")
    group.add_argument("--ray", metavar="ADDRESS", help='Ray cluster: an address, or "auto" for that of this machine')
    group.add_argument(
        "--processes", type=int, metavar="N", help="processes without Ray (default: one per GPU, or else CPU core)"
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", metavar="BASE", help="folder or Hub id of the base, or of a pack on it (default: all-MiniLM-L6-v2)"
    )
    group.add_argument("--batch_size", type=int, default=32, metavar="N", help="documents per batch (default: 32)")
    return parser
