from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import Parser


DESCRIPTION = """\
Measure how well a pack finds documents that its base has encoded, next to the base alone and, if the questions
have human translations, the base on these.

    hf-optical evaluate --pack outputs/sw --benchmark FOLDER
    hf-optical evaluate --pack outputs/ha --benchmark afriqa --split dev
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.ray and not args.index:
        parser.error("--ray searches an index; pass --index")
    if args.documents is not None and args.index:
        parser.error("--documents keeps a part of the documents, but --index searches all; leave one of them out")
    is_folder = Path(args.benchmark).is_dir()
    for option in ("documents", "query_language", "document_language") if is_folder else ("corpus",):
        if getattr(args, option) is not None:
            place = "a name" if is_folder else "a folder in BEIR layout"
            parser.error(f"--{option} needs {place} as --benchmark; leave it out")
    with parser.input_errors():
        from ..evaluation import load_beir, load_benchmark
        from ..retrieval import BASE, open_retriever
        from ..storage.json_files import write_json
        from ..training.evaluation import evaluate_retriever, evaluation_text

        retriever = open_retriever([args.pack], args.base)
        language = args.language or retriever.language
        options = {"documents": args.documents, "document_language": args.document_language}
        if is_folder:
            dataset = load_beir(args.benchmark, args.split or "test", args.corpus)
        else:
            # The languages of a benchmark have the codes of packs; the base alone has none.
            code = args.query_language or (None if language == BASE else language)
            dataset = load_benchmark(args.benchmark, language=code, split=args.split, **options)
        index = None
        if args.index:
            from ..index import BatchSearch, Workers

            index = BatchSearch(args.index, Workers(ray=args.ray))
        results = evaluate_retriever(
            retriever,
            dataset,
            language,
            index=index,
            weights=args.weights,
            batch_size=args.batch_size,
            show_progress=True,
        )
        print(evaluation_text(results))
        if args.output_dir:
            file = Path(args.output_dir) / "eval_results.json"
            write_json(file, results)
            print(f"The results are in {file}")


def make_parser() -> Parser:
    parser = Parser("evaluate", DESCRIPTION, usage="hf-optical evaluate --pack PACK --benchmark NAME [options]")
    group = parser.add_argument_group("model")
    group.add_argument("--pack", required=True, metavar="PACK", help="folder or Hub id of a pack or a model")
    group.add_argument("--base", metavar="BASE", help="folder or Hub id of the pack's base, if it has been moved")
    group.add_argument(
        "--language", metavar="CODE", help='pack that reads the questions, or "base" (default: the only pack)'
    )
    group.add_argument(
        "--weights",
        choices=["idf"],
        help="let frequent words of the pack's questions count less (default: all words count alike)",
    )
    group.add_argument("--batch_size", type=int, default=32, metavar="N", help="texts per batch (default: 32)")
    group = parser.add_argument_group("test set")
    group.add_argument(
        "--benchmark",
        required=True,
        metavar="NAME",
        help="folder in BEIR layout, or a name: afriqa, ciral, miracl, an id of ir_datasets, a task of mteb",
    )
    group.add_argument("--split", metavar="NAME", help="judgements (default: test, or the usual ones)")
    group.add_argument("--corpus", metavar="FILE", help="corpus file, if a BEIR folder has none")
    group.add_argument("--query_language", metavar="CODE", help="language in the benchmark (default: --language)")
    group.add_argument("--document_language", metavar="CODE", help="language of the documents, if there is a choice")
    group.add_argument("--documents", type=int, metavar="N", help="keep only so many documents of a benchmark")
    group.add_argument(
        "--index", metavar="URI", help="dataset of `hf-optical encode` with the documents, in place of encoding them"
    )
    group.add_argument("--ray", metavar="ADDRESS", help='Ray cluster that searches it: an address, or "auto"')
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", metavar="FOLDER", help="folder for eval_results.json")
    return parser
