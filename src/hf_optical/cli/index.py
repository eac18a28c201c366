from __future__ import annotations

from collections.abc import Sequence

from .parser import Parser, columns


DESCRIPTION = """\
Encode documents with a base model and keep them in an index that `hf-optical search` opens.

    hf-optical index --corpus documents.csv --output outputs/index
    hf-optical index --corpus documents.csv --output s3://bucket/index
"""
_RECALL = 0.98


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    if not (args.corpus or args.delete or args.compact or args.recall):
        parser.error("pass --corpus, --delete, --compact or --recall")
    new = args.corpus is not None and not args.add
    if new and args.delete:
        parser.error("--delete with --corpus needs --add, since a new index has nothing to delete")
    for option in ("engine", "dtype"):
        if getattr(args, option) and not new:
            parser.error(f"--{option} is for a new index; leave it out")
    options = {"batch_size": args.batch_size, "show_progress": True, **columns(args)}
    with parser.input_errors():
        from ..index import RetrievalIndex, create_index, open_index
        from ..retrieval import open_retriever

        if new:
            retriever = open_retriever([args.model] if args.model else [])
            index = create_index(args.output, retriever, args.corpus, engine=args.engine, dtype=args.dtype, **options)
        else:
            index = open_index(args.output)
            if args.delete:
                index.delete(args.delete)
            if args.corpus:
                base = open_retriever([args.model or index.settings.base_model])
                index.add_documents(args.corpus, base, **options)
        if args.compact:
            freed = index.compact()
            print("Compacted the index" + ("" if freed is None else f", which freed {freed / 1e6:,.1f} MB"))
        print(f"The index in {args.output} has {len(index)} documents, encoded by {index.settings.base_model}")
        if args.recall or (new and not isinstance(index, RetrievalIndex)):
            found = index.build(args.recall or _RECALL, show_progress=True)
            print(f"A search finds {found:.1%} of the ten best documents, for parts of documents as questions")


def make_parser() -> Parser:
    parser = Parser("index", DESCRIPTION, usage="hf-optical index --corpus FILE --output URI [options]")
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--corpus",
        metavar="FILE",
        help="CSV, TSV, JSON lines or Parquet file, compressed or not, folder in BEIR layout, or Hub dataset",
    )
    parser.add_columns(group)
    group = parser.add_argument_group("index")
    group.add_argument(
        "--output", required=True, metavar="URI", help="folder of the index, s3://... or qdrant://HOST:PORT/COLLECTION"
    )
    group.add_argument(
        "--engine",
        choices=("exact", "lance", "qdrant"),
        help="engine of a new index in a folder (default: exact; on s3://, lance)",
    )
    group.add_argument("--add", action="store_true", help="add the documents to the index that is there")
    group.add_argument("--delete", nargs="+", metavar="ID", help="delete documents from it")
    group.add_argument(
        "--compact",
        action="store_true",
        help="join the files of many additions, and free the space of deleted documents",
    )
    group.add_argument(
        "--dtype",
        choices=("float16", "float32", "int8"),
        help="type of the vectors (default: float16; lance: no int8)",
    )
    group.add_argument(
        "--recall",
        type=float,
        metavar="SHARE",
        help=f"train the engine to find this share of the best documents (default for a new index: {_RECALL})",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="BASE",
        help="folder or Hub id of the base, or of a pack on it (default: all-MiniLM-L6-v2; with --add, that of the "
        "index)",
    )
    group.add_argument("--batch_size", type=int, default=32, metavar="N", help="documents per batch (default: 32)")
    return parser
