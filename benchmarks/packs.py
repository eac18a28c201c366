"""
What does a pack find at other strengths, and with questions that are typed wrongly?

    python benchmarks/packs.py --pack outputs/ha --eval_dir questions/ha --eval_corpus corpus.jsonl.gz --split dev \\
        --documents 1200 --output outputs/packs.json

Mean average precision of the pack at each strength, and of perturbed questions (`perturb_queries`) without repair,
with the repair by the words of the pack, and with that by the words of the documents too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from distillation import add_question_options
from harness import table

from hf_optical import LanguagePack, OpticalRetriever
from hf_optical.evaluation import PERTURBATIONS, RetrievalEvaluator, load_beir, perturb_queries, sample_pool


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.05, 0.1, 0.2, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="folder or Hub id of the pack")
    add_question_options(parser)
    parser.add_argument("--strengths", type=float, nargs="*", default=STRENGTHS)
    parser.add_argument("--kinds", nargs="*", choices=list(PERTURBATIONS), default=["typos", "drop_letters"])
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="shares of letters that are changed")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    whole = load_beir(args.eval_dir, args.split, args.eval_corpus)
    data = sample_pool(whole, args.documents) if args.documents else whole
    pack = LanguagePack.from_pretrained(args.pack)
    language, base = pack.language, OpticalRetriever.from_pretrained(args.pack)
    teacher = base.indexer
    evaluator = RetrievalEvaluator(data, teacher.model, teacher.processor, learn_spelling=False, show_progress=True)

    def average_precision(retriever: OpticalRetriever, queries: dict[str, str] | None = None) -> float:
        retriever.set_language(language)
        return evaluator(retriever.model, retriever.processor_of(language), queries=queries)["map"]

    def opened(**changes) -> OpticalRetriever:
        retriever = OpticalRetriever.from_pretrained(args.pack)
        retriever.remove_language(language)
        retriever.add_language(language, replace(pack, **changes))
        return retriever

    strengths = {}
    for strength in args.strengths:
        base.set_strength(language, strength)
        strengths[strength] = average_precision(base)
        print(f"strength {strength}: {strengths[strength]:.4f}", flush=True)

    readers = {"no repair": opened(known_words=None), "words of the pack": opened(), "and of the documents": opened()}
    readers["and of the documents"].learn_spelling(whole.document_texts())
    texts = {key: query.text for key, query in data.queries.items()}
    rows = []
    for kind, share in [("clean", 0.0), *((kind, share) for kind in args.kinds for share in args.shares)]:
        queries = perturb_queries(texts, kind, share, seed=0) if share else texts
        rows.append([f"{kind} {share}", *(average_precision(each, queries) for each in readers.values())])
        print(rows[-1], flush=True)
    print(table(["questions", *readers], rows))
    if args.output:
        args.output.write_text(json.dumps({"strengths": strengths, "perturbed": rows}, indent=1))


if __name__ == "__main__":
    main()
