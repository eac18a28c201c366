"""
Compare exact search (`maxsim`, `search`) with sentence-transformers, PyLate and a plain matrix product.

    python benchmarks/search.py [--quick] [--pylate PYTHON]

Passages have 5 to 300 tokens (log-normal, median 80), queries 5 to 64 (median 16), vectors 128 dimensions. All
contestants read the same memory-mapped files. Memory is the size of the files and what a new process takes beyond
them. Other libraries are not timed on sizes that would take minutes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import Measured, apart, arguments, peak_memory, race, ratios, table, write
from pylate_peer import PyLate
from safetensors.torch import load_file
from sentence_transformers.util import maxsim as theirs

from hf_optical.retrieval import TokenVectors, maxsim, search


DIM = 128
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Values of its `chunk_elements`: the default and the fastest of five.
SENTENCE_TRANSFORMERS = {"sentence-transformers": None, "sentence-transformers, small chunks": 300_000}
# Largest number of query-passage pairs that other libraries are timed on.
MOST_PAIRS = {"sentence-transformers": 50_000, "sentence-transformers, small chunks": 1_000_000, "PyLate": 1_000_000}


def ragged(texts: int, median: int, longest: int, seed: int) -> TokenVectors:
    """Unit vectors with a common component, like those of a real encoder."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.exp(torch.randn(texts, generator=generator) * 0.5 + math.log(median))
    lengths = lengths.round().long().clamp(5, longest)
    values = torch.randn(int(lengths.sum()), DIM, generator=generator)
    values += torch.randn(DIM, generator=torch.Generator().manual_seed(0))
    values /= values.norm(dim=1, keepdim=True)
    return TokenVectors(values, lengths)


def save(folder: Path, texts: int) -> None:
    """Save passages in single and in half precision."""
    documents = ragged(texts, 80, 300, seed=1)
    documents.save(folder / "documents.safetensors")
    for name, dtype in TYPES.items():
        documents.to(dtype).save(folder / f"{name}.safetensors")


def save_queries(folder: Path, queries: int) -> None:
    ragged(queries, 16, 64, seed=2).save(folder / "queries.safetensors")


def product(queries: TokenVectors, documents: TokenVectors) -> None:
    """Plain matrix product of all tokens, in blocks that fit into the cache."""
    for start in range(0, len(documents.values), 1024):
        documents.values[start : start + 1024] @ queries.values.T


def contestants(folder: Path) -> dict[str, Callable[[], object]]:
    """Functions to time by name: packed vectors, a list of tensors, or half precision."""
    queries, documents = (TokenVectors.open(folder / f"{name}.safetensors") for name in ("queries", "documents"))
    half = {name: TokenVectors.open(folder / f"{name}.safetensors") for name in TYPES}
    lists = queries.to_list(), documents.to_list()
    return {
        "maxsim": partial(maxsim, queries, documents),
        "maxsim, lists": lambda: maxsim(*lists),
        "search": partial(search, queries, documents),
        **{f"search, {name}": partial(search, queries, stored) for name, stored in half.items()},
        "matrix product": partial(product, queries, documents),
        **{name: partial(theirs, *lists, chunk_elements=chunk) for name, chunk in SENTENCE_TRANSFORMERS.items()},
    }


def memory(folder: Path, name: str, threads: int) -> float:
    """Peak memory of a contestant in MB, without its input."""
    torch.set_num_threads(threads)
    run = contestants(folder)[name]
    sample = contestants(folder / "sample")[name]
    sample()  # do not count memory that libraries take at their first run
    return peak_memory(run)


def measure(folder: Path, texts: int, queries: int, options) -> list[Measured]:
    """Time all contestants on one corpus and compare their results."""
    threads, rounds = options.threads, options.rounds if texts < 50_000 else min(3, options.rounds)
    runs = contestants(folder)
    peer = PyLate(options.pylate, "score", folder, threads) if options.pylate else None
    if peer is not None:
        runs["PyLate"] = peer
    runs = {name: run for name, run in runs.items() if texts * queries <= MOST_PAIRS.get(name, math.inf)}
    scores = runs["maxsim"]()
    found = {name: runs[name]() for name in runs if name in MOST_PAIRS}
    if "PyLate" in runs:
        found["PyLate"] = load_file(folder / "pylate.safetensors")["scores"]
    measured = race({"passages": texts, "queries": queries}, runs, rounds, min_seconds=0.1)
    if peer is not None:
        peer.close()
    stored = (folder / "documents.safetensors").stat().st_size / 2**20
    tokens = TokenVectors.open(folder / "queries.safetensors").values.shape[0]
    for entry in measured:
        entry.notes["gigaflops"] = 2 * tokens * stored * 2**20 / 4 / entry.median / 1e9
        if entry.name in found:
            entry.notes["difference"] = (found[entry.name] - scores).abs().max().item()
        if entry.name not in ("matrix product", "PyLate"):
            entry.notes["extra MB"] = apart(memory, folder, entry.name, threads)
            half = 2 if "float16" in entry.name else 1
            entry.notes["memory"] = 1 + entry.notes["extra MB"] / (stored / half)
    return measured


def main() -> None:
    parser = arguments(__doc__, "search")
    parser.add_argument("--pylate", metavar="PYTHON", help="Interpreter of an environment that has PyLate.")
    parser.set_defaults(rounds=5)
    parser.add_argument("--passages", type=int, nargs="+", default=[5_000, 100_000])
    options = parser.parse_args()
    if options.quick:
        options.passages, options.rounds = [500], 2
    torch.set_num_threads(options.threads)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sample").mkdir()
        for place, texts in [(folder / "sample", 100)] + [(folder, texts) for texts in options.passages]:
            save(place, texts)
            for queries in (8, 64):
                save_queries(place, queries)
                if place == folder:
                    result = measure(folder, texts, queries, options)
                    show(result)
                    measured += result
    write(options.output, measured, passages=options.passages)


def show(measured: list[Measured]) -> None:
    faster = ratios(measured, "maxsim")
    rows = [
        [
            entry.name,
            1e3 * entry.median,
            faster.get(entry.name, 1.0),
            *(entry.notes.get(note, "") for note in ("gigaflops", "difference", "memory")),
        ]
        for entry in measured
    ]
    print(f"\n{measured[0].setting['passages']} passages, {measured[0].setting['queries']} queries\n")
    header = ["", "ms", "times the time of maxsim", "GFLOP/s", "difference", "memory / stored"]
    print(table(header, rows), flush=True)


if __name__ == "__main__":
    main()
