"""
Do approximate engines lose more for a pack's questions than for English ones?

Every engine is set on English questions to a recall of the exact ranking, then searched with the questions of each
pack and with their English translations. Recall, mean average precision and CPU time are compared with an exact search
in the same run. The settings come from one split of the questions, the figures from another.

    python benchmarks/languages.py --exact outputs/index --index outputs/qdrant --pack outputs/ha outputs/yo \\
        --questions questions/ha questions/yo --settings_split train --split dev --output outputs/languages.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from harness import Measured, table, write
from torch import Tensor

from hf_optical.evaluation import load_beir, retrieval_metrics
from hf_optical.evaluation.metrics import run_from_hits
from hf_optical.index import Index, open_index
from hf_optical.index.recall import measured_recall
from hf_optical.retrieval import BASE, Hit, open_retriever


DEPTHS = (10, 100)
# Queries in a call.
TOGETHER = 16


def ranked(index: Index, queries: list[Tensor], depth: int) -> tuple[list[list[Hit]], float]:
    """Rankings, and milliseconds of CPU for a query."""
    start, hits = time.process_time(), []
    for first in range(0, len(queries), TOGETHER):
        hits += index.search(queries[first : first + TOGETHER], depth)
    return hits, (time.process_time() - start) / len(queries) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", required=True, help="index of the exact engine")
    parser.add_argument("--index", nargs="+", required=True, help="indexes of other engines, of the same documents")
    parser.add_argument("--pack", nargs="+", required=True, help="a pack for each language")
    parser.add_argument("--questions", nargs="+", required=True, help="a folder in BEIR layout for each pack")
    parser.add_argument("--corpus", help="documents of the questions, if they are not in those folders")
    parser.add_argument("--settings_split", default="train", help="questions that settings are chosen with")
    parser.add_argument("--split", default="dev", help="questions that are measured")
    parser.add_argument("--most", type=int, default=200, help="questions per language (default: 200)")
    parser.add_argument("--recall", type=float, nargs="+", default=[0.9, 0.95, 0.98], help="of English questions")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    retriever = open_retriever(args.pack)
    settings, asked = [], {}
    for language, folder in zip(retriever.languages, args.questions, strict=True):
        for split in (args.settings_split, args.split):
            data = load_beir(folder, split, args.corpus)
            chosen = [key for key, query in data.queries.items() if query.translation][: args.most]
            english = retriever.encode_queries([data.queries[key].translation for key in chosen], language=BASE)
            if split == args.split:
                own = retriever.encode_queries([data.queries[key].text for key in chosen], language=language)
                qrels = {key: data.qrels[key] for key in chosen}
                asked[f"{language}, English"], asked[f"{language}, pack"] = (english, qrels), (own, qrels)
            else:
                settings += english[: args.most // len(args.pack)]

    def average_precision(qrels, hits) -> float:
        return retrieval_metrics(qrels, run_from_hits(dict(zip(qrels, hits, strict=True))), ["map"])["map"]

    measured, rows = [], []
    with open_index(args.exact) as index:
        exact = {name: ranked(index, queries, max(DEPTHS)) for name, (queries, _) in asked.items()}
    for uri in args.index:
        with open_index(uri) as index:
            for target in args.recall:
                reached = index.build(target, queries=settings)
                for name, (queries, qrels) in asked.items():
                    best, exact_ms = exact[name]
                    notes = {"reached on the settings' questions": reached}
                    for depth in DEPTHS:
                        hits, ms = ranked(index, queries, depth)
                        notes[f"recall@{depth}"] = measured_recall(hits, [own[:depth] for own in best])
                        notes[f"CPU ms @{depth}"] = ms
                    notes |= {"MAP": average_precision(qrels, hits), "exact MAP": average_precision(qrels, best)}
                    notes["exact CPU ms"] = exact_ms
                    setting = {
                        "index": uri,
                        "target": target,
                        "queries": name,
                        "candidates": getattr(index, "candidates", None),
                    }
                    measured.append(Measured(setting, type(index).__name__, [notes["CPU ms @10"] / 1000], notes))
                    rows.append([f"{type(index).__name__} {target} ({setting['candidates']})", name, *notes.values()])
                    print(rows[-1], flush=True)
    print(table(["engine", "queries", *notes], rows))
    if args.output:
        write(args.output, measured)


if __name__ == "__main__":
    main()
