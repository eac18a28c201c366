from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .parser import Parser, columns


if TYPE_CHECKING:
    from ..index.documents import IndexedDocument

DESCRIPTION = """\
Find documents for questions. The pack reads the questions, its base has read the documents.

    hf-optical search "Malaria huenezwa na nini?" --index outputs/index --pack outputs/sw
    hf-optical search "Malaria huenezwa na nini?" --corpus documents.csv --pack outputs/sw
"""
_WIDTH = 110


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.input_errors():
        from ..index import open_index, search_documents
        from ..retrieval import open_retriever
        from ..retrieval.opening import open_for_index
        from ..retrieval.processors import learn_for_search

        index = open_index(args.index) if args.index else None
        if index is None:
            retriever = open_retriever(args.pack, args.base)
        else:
            retriever = open_for_index(index.settings.base_model, args.pack, args.base)
        language = args.language or retriever.language
        if index is not None:
            if counts := index.word_counts():
                learn_for_search(retriever, counts, language, args.weights)
            rankings = retriever.search(
                args.question, index, args.top_k, language=language, weights=args.weights, where=args.where
            )
            documents = [index.documents([str(hit.document) for hit in hits]) for hits in rankings]
            found = [
                [(document, hit.score) for document, hit in zip(own, hits, strict=True)]
                for own, hits in zip(documents, rankings, strict=True)
            ]
        else:
            if args.where:
                parser.error("--where needs --index")
            found = search_documents(
                retriever, args.corpus, args.question, args.top_k, language, args.weights, **columns(args)
            )
    for question, hits in zip(args.question, found, strict=True):
        print(as_json(question, language, hits) if args.json else as_text(question, hits))


def as_json(question: str, language: str, hits: Iterable[tuple[IndexedDocument, float]]) -> str:
    rows = [{**document._asdict(), "score": score} for document, score in hits]
    return json.dumps({"question": question, "language": language, "hits": rows}, ensure_ascii=False, default=str)


def as_text(question: str, hits: Iterable[tuple[IndexedDocument, float]]) -> str:
    lines = [question]
    for rank, (document, score) in enumerate(hits, start=1):
        text = textwrap.shorten(" ".join([document.title, document.text]), _WIDTH - 30, placeholder=" ...")
        lines.append(f"{rank:4}  {score:7.3f}  {document.id:12}  {text}")
    return "\n".join([*lines, ""])


def make_parser() -> Parser:
    parser = Parser(
        "search", DESCRIPTION, usage="hf-optical search QUESTION [QUESTION ...] (--index | --corpus) [options]"
    )
    parser.add_argument("question", nargs="+", metavar="QUESTION", help="a question, or several")
    group = parser.add_argument_group("documents")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--index", metavar="URI", help="index made by `hf-optical index`: a folder, s3://... or qdrant://..."
    )
    source.add_argument("--corpus", metavar="FILE", help="documents to encode now, as in `hf-optical index`")
    parser.add_columns(group)
    group.add_argument(
        "--where", metavar="CONDITION", help='condition on the other columns in SQL, such as "year >= 1990"'
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--pack",
        nargs="+",
        default=[],
        metavar="PACK",
        help="folder or Hub id of a language pack, of several on one base, or of a model (default: the bare base)",
    )
    group.add_argument("--base", metavar="BASE", help="folder or Hub id of the base, if it has been moved")
    group.add_argument(
        "--language", metavar="CODE", help='language of the questions, or "base" (default: that of the first pack)'
    )
    group.add_argument(
        "--weights",
        choices=["idf"],
        help="let frequent words of the questions count less (default: all words count alike; not for Lance)",
    )
    group = parser.add_argument_group("results")
    group.add_argument("--top_k", type=int, default=5, metavar="K", help="documents per question (default: 5)")
    group.add_argument("--json", action="store_true", help="print one JSON object per question")
    return parser
