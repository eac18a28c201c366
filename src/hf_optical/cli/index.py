from __future__ import annotations

from collections.abc import Sequence

from .parser import Parser


DESCRIPTION = """\
Encode documents with a base model and keep them in a folder that `hf-optical search` opens.

    hf-optical index --corpus documents.csv --output outputs/index
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.corpus is None) == (args.delete is None):
        parser.error("pass either --corpus or --delete")
    columns = {"id_column": args.id_column, "text_column": args.text_column, "title_column": args.title_column}
    options = {"batch_size": args.batch_size, "show_progress": True}
    with parser.input_errors():
        from ..index import RetrievalIndex
        from ..retrieval import open_retriever

        if args.delete is not None:
            index = RetrievalIndex.open(args.output)
            index.delete(args.delete)
        elif args.add:
            index = RetrievalIndex.open(args.output)
            index.add(args.corpus, open_retriever([args.model or index.settings.base_model]), **options, **columns)
        else:
            retriever = open_retriever([args.model] if args.model else [])
            index = RetrievalIndex.build(args.output, args.corpus, retriever, dtype=args.dtype, **options, **columns)
    print(f"The index in {args.output} has {len(index)} documents, encoded by {index.settings.base_model}")


def make_parser() -> Parser:
    parser = Parser("index", DESCRIPTION, usage="hf-optical index --corpus FILE --output FOLDER [options]")
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--corpus",
        metavar="FILE",
        help="CSV, TSV, JSON lines or Parquet file, compressed or not, folder in BEIR layout, or Hub dataset",
    )
    group.add_argument("--text_column", default="text", metavar="NAME", help="column of the texts (default: text)")
    group.add_argument("--title_column", default="title", metavar="NAME", help="column of titles (default: title)")
    group.add_argument(
        "--id_column", metavar="NAME", help="column of the ids (default: _id or id; otherwise documents are numbered)"
    )
    group = parser.add_argument_group("index")
    group.add_argument("--output", required=True, metavar="FOLDER", help="folder of the index")
    group.add_argument("--add", action="store_true", help="add the documents to the index that is in the folder")
    group.add_argument("--delete", nargs="+", metavar="ID", help="delete documents from it, in place of --corpus")
    group.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="type of the vectors (default: float16)"
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
