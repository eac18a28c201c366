from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from .parser import Parser, columns


DESCRIPTION = """\
Choose how much of a pack's adapter to apply for the documents that will be searched, without questions or judgements,
and store it in the pack.

    hf-optical tune --pack outputs/sw --corpus documents.csv

Words of the documents are translated by the new words of the pack, or by a dictionary. A pack without new words, as of
a multilingual base, needs one: --dictionary, or --train_file to learn it from sentence pairs.
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    if not (args.output or os.path.isdir(args.pack)):
        parser.error("a pack from the Hub needs --output")
    with parser.input_errors():
        from ..bitext import learn_dictionary, load_bitext, read_entries
        from ..bitext.entries import switching_dictionary
        from ..index.documents import read_documents
        from ..languages import LanguagePack
        from ..retrieval import open_retriever, strength_scores
        from ..retrieval.tuning import choose_strength

        pack = LanguagePack.from_pretrained(args.pack)
        retriever = open_retriever([args.pack], args.base)
        texts = [document.full_text for document in read_documents(args.corpus, **columns(args))]
        english = pack.details.get("teacher_language") or "en"
        tokenizer, dictionary = retriever.processor.tokenizer, None
        pairs = load_bitext(args.train_file, pack.language, english) if args.train_file else None
        if args.dictionary:
            dictionary = switching_dictionary(read_entries(args.dictionary, tokenizer, pairs, pack.language, english))
        elif pairs is not None:
            dictionary = learn_dictionary(pairs, tokenizer, pack.language, english)
        scores = strength_scores(retriever, pack.language, texts, dictionary=dictionary, show_progress=True)
        chosen = choose_strength(scores)
        replace(pack, strength=chosen).save_pretrained(args.output or args.pack)
    for strength, own in scores.items():
        print(f"  {strength}: {own.mean().item():.3f}" + ("  chosen" if strength == chosen else ""))
    print(f"The pack in {args.output or args.pack} has a strength of {chosen}")


def make_parser() -> Parser:
    parser = Parser("tune", DESCRIPTION, usage="hf-optical tune --pack PACK --corpus FILE [options]")
    parser.add_argument("--pack", required=True, metavar="PACK", help="folder or Hub id of a language pack")
    parser.add_argument("--base", metavar="BASE", help="folder or Hub id of the pack's base, if it has been moved")
    parser.add_argument("--output", metavar="FOLDER", help="where to save the pack (default: where it is)")
    parser.add_argument("--dictionary", nargs="+", metavar="FILE", help="dictionaries, for a pack without new words")
    parser.add_argument("--train_file", metavar="FILE", help="sentence pairs to learn a dictionary from")
    group = parser.add_argument_group("documents, of which a thousand are sampled")
    group.add_argument("--corpus", required=True, metavar="FILE", help="documents, as in `hf-optical index`")
    parser.add_columns(group)
    return parser
