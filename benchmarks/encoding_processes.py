"""
Encode the same shards with one process and with two, each of one thread, and write them as Lance fragments.

    OMP_NUM_THREADS=1 python benchmarks/encoding_processes.py [--quick] [--storage URI]

The model is all-MiniLM-L6-v2 with 384 dimensions. The texts are those of `benchmarks/encoding.py`: median 60 words.
The time to start a process, with its imports and model, is measured apart.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import closing
from pathlib import Path

from encoding import MODEL, passages
from harness import arguments, race, ratios, table, write

from hf_optical.index import IndexSettings, Workers
from hf_optical.index.encode_shard import ShardJob, encode_shard
from hf_optical.index.lance_rows import document_schema
from hf_optical.index.shards import Columns, CorpusFile, cut
from hf_optical.retrieval import open_retriever


def main() -> None:
    parser = arguments(__doc__, "encoding_processes")
    parser.add_argument("--storage", metavar="URI", help="where to write fragments (default: a temporary folder)")
    args = parser.parse_args()
    count = 128 if args.quick else 512
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "corpus.jsonl"
        rows = (json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(passages(count)))
        file.write_text("\n".join(rows), encoding="utf-8")
        settings = IndexSettings.of(open_retriever([MODEL]))
        uri = args.storage or str(folder / "dataset")
        job = ShardJob(uri, MODEL, settings, document_schema(settings), Columns(), "create", 32)
        shards = cut([CorpusFile(str(file), file.stat().st_size, count)], 8)
        with closing(Workers(processes=1).pool()) as one, closing(Workers(processes=2).pool()) as two:

            def encode(pool) -> list[dict]:
                return [result for _, result in pool.run(encode_shard, job, shards)]

            start = time.perf_counter()
            list(two.run(encode_shard, job, [shards[0][:1], shards[1][:1]]))
            started = time.perf_counter() - start
            used = time.process_time()
            results = encode(one)
            used = time.process_time() - used
            assert sum(result["rows"] for result in results) == count, results
            measured = race(
                {"passages": count},
                {"2 processes": lambda: encode(two), "1 process": lambda: encode(one)},
                args.rounds,
            )
        stored = sum(each["files"][0]["file_size_bytes"] for result in results for each in result["fragments"])
        tokens = sum(result["tokens"] for result in results)
        notes = {"tokens": tokens, "stored_bytes": stored, "first_shards_seconds": started, "cpu_seconds": used}
    gain = ratios(measured, "2 processes")["1 process"]
    rows = [[each.name, count / each.median, tokens / each.median] for each in measured]
    print(table(["", "passages a second", "tokens a second"], rows))
    print(f"two processes: {gain:.2f} times one")
    print(f"{stored / tokens:.0f} bytes a token, {tokens / count:.0f} tokens a passage")
    print(f"{count / used:.1f} passages and {tokens / used:.0f} tokens a CPU second")
    print(f"processes started, and encoded two shards, in {started:.1f} s")
    write(args.output, measured, **notes, gain=gain)


if __name__ == "__main__":
    main()
