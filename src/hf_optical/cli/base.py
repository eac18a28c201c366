from __future__ import annotations

import itertools
from collections.abc import Sequence

from .parser import Parser, columns


DESCRIPTION = """\
Make a base whose token vectors are centered, or smaller, and save it as a folder, to train packs on and to encode
documents with.

    hf-optical base --model intfloat/multilingual-e5-small --center --corpus documents.csv --output outputs/base
    hf-optical train --student_model outputs/base ...

Center a base that was trained for sentence vectors. It is another base than before: encode the documents again.
"""
# Documents on whose vectors the length of the mean is measured.
_SAMPLE = 100


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.center and args.dimension is None:
        parser.error("pass --center, --dimension or both")
    options = {"batch_size": args.batch_size, "show_progress": True}
    with parser.input_errors():
        from ..checks import check_number
        from ..index.documents import read_documents
        from ..losses.geometry import mean_vector
        from ..retrieval import center_vectors, open_retriever, reduce_dimension

        for name in ("documents", "batch_size"):
            check_number(name, getattr(args, name), at_least=1)
        documents = itertools.islice(read_documents(args.corpus, **columns(args)), args.documents)
        texts = [document.full_text for document in documents]
        retriever = open_retriever([args.model])
        if args.dimension is not None:
            check_number("dimension", args.dimension, at_least=1, at_most=retriever.model.embedding_dim - 1)
        if args.center:
            retriever = center_vectors(retriever, texts, **options)
        if args.dimension is not None:
            retriever = reduce_dimension(retriever, texts, args.dimension, **options)
        retriever.save_pretrained(args.output)
        sample = texts[:: max(1, len(texts) // _SAMPLE)]
        length = mean_vector(retriever.encode_documents(sample, batch_size=args.batch_size)).norm().item()
    print(f"The base in {args.output} has vectors of {retriever.model.embedding_dim} numbers")
    print(f"Their mean has a length of {length:.2f}, where 0 is centered and 1 is a single direction")


def make_parser() -> Parser:
    parser = Parser("base", DESCRIPTION, usage="hf-optical base --model BASE --corpus FILE --output FOLDER [options]")
    parser.add_argument("--model", required=True, metavar="BASE", help="folder or Hub id of the base")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to save the new base")
    parser.add_argument("--center", action="store_true", help="subtract the mean of the vectors")
    parser.add_argument("--dimension", type=int, metavar="N", help="size of the vectors, by principal components")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="documents per batch (default: 32)")
    group = parser.add_argument_group("documents, of which the first are read")
    group.add_argument("--corpus", required=True, metavar="FILE", help="documents, as in `hf-optical index`")
    group.add_argument("--documents", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_columns(group)
    return parser
