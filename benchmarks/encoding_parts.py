"""
Time the parts of an encoding run other than the model: reading and checking a corpus, records, the commit, and batch
search.

    OMP_NUM_THREADS=1 python benchmarks/encoding_parts.py [--quick] [--storage URI]

Vectors are random: 128 numbers, 80 tokens a passage. The texts are those of `benchmarks/encoding.py`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from encoding import passages
from harness import arguments, table, write
from lance.fragment import write_fragments

from hf_optical.index import BatchSearch, IndexedDocument, IndexSettings, Workers
from hf_optical.index.encoding_plan import EncodingPlan
from hf_optical.index.encoding_run import _commit
from hf_optical.index.lance_rows import DATASET_OPTIONS, document_schema, to_table
from hf_optical.index.run_records import RunRecords
from hf_optical.index.shards import Columns, CorpusFile, count_rows, scan_file
from hf_optical.retrieval import TokenVectors


DIM, TOKENS, QUERIES = 128, 80, 100


def timed(run: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds, and seconds of CPU, which other load on the machine changes less."""
    start, used = time.perf_counter(), time.process_time()
    result = run()
    return (time.perf_counter() - start, time.process_time() - used), result


def parts(folder: Path, uri: str, quick: bool) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Name, number of things, and times of each part."""
    count, fragments = (2_000, 100) if quick else (100_000, 4_000)
    settings = IndexSettings("base", "0" * 64, {}, DIM, "float16")
    texts = passages(min(count, 10_000))
    file = folder / "corpus.jsonl"
    rows = (json.dumps({"_id": str(i), "text": texts[i % len(texts)], "source": "news"}) for i in range(count))
    file.write_text("\n".join(rows), encoding="utf-8")
    seconds, _ = timed(lambda: (count_rows(None, (str(file), 0)), scan_file((Columns(), settings), (str(file), 0))))
    yield "passages counted and checked", count, seconds

    documents = [IndexedDocument(str(i), "", texts[i], {}) for i in range(1_000)]
    values = torch.nn.functional.normalize(torch.randn(len(documents) * TOKENS, DIM), dim=1)
    vectors = TokenVectors(values, torch.full((len(documents),), TOKENS))
    schema = document_schema(settings)
    made = to_table(documents, vectors, schema)
    seconds, written = timed(
        lambda: [write_fragments(made, uri, schema, mode="create", **DATASET_OPTIONS)[0] for _ in range(5)]
    )
    yield "passages written", 5 * len(documents), seconds

    records = RunRecords(uri)
    own = [written[i % 5].to_json() for i in range(fragments)]
    plan = EncodingPlan([CorpusFile(str(file), 0, 0)], settings, Columns(), None, False, schema=schema, run="run")
    stored = [{"fragments": [each], "rows": 1_000, "tokens": 80_000} for each in own]
    seconds, _ = timed(lambda: [records.write_shard("run", number, each) for number, each in enumerate(stored)])
    yield "records of shards written", fragments, seconds
    seconds, found = timed(lambda: records.shards("run"))
    assert len(found) == fragments
    yield "records of shards read", fragments, seconds
    seconds, _ = timed(lambda: _commit(uri, plan, own[:5]))
    yield "fragments committed", 5, seconds
    queries = TokenVectors(values[: QUERIES * 20].clone(), torch.full((QUERIES,), 20))
    index = BatchSearch(uri, Workers(processes=1))
    seconds, _ = timed(lambda: index.search(queries))
    yield f"passages searched for {QUERIES} queries of 20 tokens", 5 * len(documents), seconds
    seconds, _ = timed(lambda: _commit(uri, plan, own))
    yield "fragments committed", fragments, seconds


def main() -> None:
    parser = arguments(__doc__, "encoding_parts")
    parser.add_argument("--storage", metavar="URI", help="a dataset that is not there yet (default: a folder)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        found = list(parts(Path(name), args.storage or f"{name}/dataset", args.quick))
    rows = [[part, number, *times, number / times[1]] for part, number, times in found]
    print(table(["", "number", "seconds", "CPU seconds", "a CPU second"], rows))
    write(args.output, [], parts=found)


if __name__ == "__main__":
    main()
