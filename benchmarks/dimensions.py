"""
How much do small vectors lose?

    python benchmarks/dimensions.py --pack outputs/ha --eval_dir afriqa/ha --eval_corpus afriqa/corpus.jsonl.gz \\
        --split dev --documents 1200

The base of the pack is reduced by PCA of its document vectors (`reduce_dimension`), and the questions are read by the
pack, and by the base as human translations. Vectors are kept in an exact index, in half precision and as int8.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from distillation import add_question_options, load_questions
from harness import table
from torch import Tensor

from hf_optical import OpticalRetriever
from hf_optical.evaluation import per_query_metrics, run_from_hits
from hf_optical.index import Index, create_index
from hf_optical.retrieval import BASE, reduce_dimension


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="folder or Hub id of the pack")
    add_question_options(parser)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 64, 32, 16])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_questions(args)
    full = OpticalRetriever.from_pretrained(args.pack, device="cpu")
    own = {key: query.text for key, query in data.queries.items()}
    translated = {key: query.translation or query.text for key, query in data.queries.items()}

    rows = []
    for size in [None, *args.dimensions]:
        retriever = full if size is None else reduce_dimension(full, data.document_texts(), size)
        vectors = retriever.encode_documents(data.document_texts())
        for dtype in ("float16", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                index = create_index(Path(folder) / "index", retriever, dtype=dtype)
                index.add(list(data.corpus), vectors)
                maps = []
                for questions, language in ((own, retriever.languages[0]), (translated, BASE)):
                    queries = retriever.encode_queries(list(questions.values()), language=language)
                    maps.append(_mean_precision(data.qrels, index, list(questions), queries))
                index.close()
            rows.append([size or retriever.model.embedding_dim, dtype, *maps])
            print(rows[-1], flush=True)
    print(table(["numbers", "kept as", "pack", "human translations"], rows))


def _mean_precision(qrels: dict[str, dict[str, int]], index: Index, ids: list[str], queries: list[Tensor]) -> float:
    run = run_from_hits(dict(zip(ids, index.search(queries, 1000), strict=True)))
    values = per_query_metrics(qrels, run, ["AP"])["AP"]
    return sum(values.values()) / len(values)


if __name__ == "__main__":
    main()
