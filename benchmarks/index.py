"""
Compare engines with exact search on real questions: recall, mean average precision, CPU time and bytes.

    python benchmarks/index.py --data_dir DATA --cache_dir CACHE [--packs ha=FOLDER ig=FOLDER] [--dim 128]

The corpus is that of AfriQA, and after it English news sentences and image captions, then their
translations, read by the same model, as far as `--passages` needs them. The questions are those of AfriQA's training
split: human translations, read by the base, and with `--packs` the same questions in their language.
Engines are tuned on some translations (`build(recall=...)`) and measured on other questions. CPU time is that of all
threads of the process. Vectors are encoded once and kept in `--cache_dir`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from harness import Measured, apart, arguments, table, write

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.bitext import load_bitext
from hf_optical.evaluation import load_beir
from hf_optical.index import Index, IndexSettings, RetrievalIndex, open_index
from hf_optical.index.lance import LanceIndex
from hf_optical.index.partitions import TOKENS_PER_PARTITION, number_of_partitions, train_partitions
from hf_optical.index.recall import measured_recall
from hf_optical.retrieval import DEFAULT_BASE, Hit, TokenVectors, encode_texts, fit_projection, search
from hf_optical.retrieval.search import best_documents


LANGUAGES = ("ha", "ig", "yo")
DEPTH = 100


def texts(data: Path) -> Iterator[tuple[str, str]]:
    """Ids and texts of the corpus, without duplicates: English, and after it the translations."""
    corpus = load_beir(data / "afriqa" / "ha", "train", data / "afriqa" / "corpus.jsonl.gz")
    yield from zip(corpus.corpus, corpus.document_texts(), strict=True)
    seen: set[str] = set()
    files = [*((f"bitext/{code}", "train", code) for code in LANGUAGES), ("ntrex", "ha", "ha")]
    captions = [(f"bitext/{code}", "train", code) for code in ("de", "fr", "cs")]
    for side, sources in (("en", [*files, captions[0]]), ("", [*captions, *files])):
        for folder, file, language in sources:
            for number, row in enumerate(load_bitext(data / folder / f"{file}.jsonl.gz", language)):
                text = row["translation"][side or language]
                if text.strip() and text not in seen:
                    seen.add(text)
                    yield f"{folder}-{side or language}-{number}", text


def cached(file: Path, make: Callable[[], TokenVectors]) -> TokenVectors:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        make().save(file)
    return TokenVectors.open(file)


def projected(vectors: TokenVectors, projection: torch.Tensor | None) -> TokenVectors:
    if projection is None:
        return vectors
    blocks = [
        torch.nn.functional.normalize(part.float() @ projection.T, dim=1) for part in vectors.values.split(65536)
    ]
    return TokenVectors(torch.cat(blocks).to(vectors.values.dtype), vectors.lengths)


def average_precision(rankings: list[list[Hit]], relevant: list[set[str]]) -> float:
    """Mean average precision at `DEPTH`."""
    total = 0.0
    for hits, own in zip(rankings, relevant, strict=True):
        places = [rank for rank, hit in enumerate(hits, start=1) if hit.document in own]
        total += sum(found / rank for found, rank in enumerate(places, start=1)) / len(own)
    return total / len(rankings)


class Faiss:
    """An inverted index of tokens with product quantisation, and exact scores of the best documents."""

    def __init__(self, ids: list[str], documents: TokenVectors):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.ids, self.documents = ids, documents
        self.document_of = torch.repeat_interleave(documents.lengths)
        partitions = number_of_partitions(len(documents.values))
        sample = torch.randperm(len(documents.values), generator=torch.Generator().manual_seed(0))
        values = documents.values[sample[: TOKENS_PER_PARTITION * partitions]].float()
        self.index = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(documents.dim), documents.dim, partitions, 16, 8, faiss.METRIC_INNER_PRODUCT
        )
        self.index.quantizer.add(train_partitions(values, partitions).numpy())
        self.index.train(values.numpy())
        for part in documents.values.split(65_536):
            self.index.add(part.float().numpy())
        self.index.nprobe = 16
        self.bytes = len(faiss.serialize_index(self.index))

    def search(self, queries: TokenVectors, top_k: int) -> list[list[Hit]]:
        return [self._one(query, top_k) for query in queries.to_list()]

    def _one(self, query: torch.Tensor, top_k: int) -> list[Hit]:
        scores, tokens = map(torch.from_numpy, self.index.search(query.float().numpy(), 40 * top_k))
        lowest = scores.min(1, keepdim=True).values  # where there are fewer tokens, the score is -inf
        found, column = self.document_of[tokens.clamp_min(0)].unique(return_inverse=True)
        best = lowest.clamp_min(-1).expand(-1, len(found)).clone()
        best.scatter_reduce_(1, column, scores.where(tokens >= 0, best.gather(1, column)), "amax")
        chosen = found[best.sum(0).topk(min(4 * top_k, len(found))).indices].sort().values.tolist()
        own = TokenVectors(query.float(), torch.tensor([len(query)]))
        return best_documents(own, self.documents.take(chosen), top_k, [self.ids[i] for i in chosen])[0]


# Name -> engine, data type of its vectors, and settings of `build`. faiss is a peer that is not in the library.
ENGINES: dict[str, tuple[type, str, dict]] = {
    "exact": (RetrievalIndex, "float16", {}),
    "exact, int8": (RetrievalIndex, "int8", {}),
    "Lance, 1 bit": (LanceIndex, "float32", {"bits": 1}),
    "Lance, 4 bits": (LanceIndex, "float32", {"bits": 4}),
    "Lance, 8 bits": (LanceIndex, "float32", {"bits": 8}),
    "Lance, 1 bit, half precision": (LanceIndex, "float16", {"bits": 1}),
    "faiss IVF,PQ16": (Faiss, "", {}),
}


def held(uri: str, queries: str) -> float:
    """Memory of a process after it has searched, in MB, without mapped files."""
    torch.set_num_threads(1)
    index = open_index(uri)
    index.search(TokenVectors.open(queries)[:20], 10)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def build(engine: type, dtype: str, options: dict, folder: Path, ids: list[str], documents: TokenVectors, tuning):
    """Make an index, and say how many CPU seconds that took, its bytes, and the recall on the tuning queries."""
    if engine is Faiss:
        start = time.process_time()
        peer = Faiss(ids, documents)
        return peer, {"build": time.process_time() - start, "bytes": peer.bytes}
    index: Index = engine.create(folder, IndexSettings("base", "0" * 64, {}, documents.dim, dtype))
    start = time.process_time()
    for first in range(0, len(ids), 5_000):
        index.add(ids[first : first + 5_000], documents[first : first + 5_000])
    written = folder_bytes(folder)
    stored, start = time.process_time() - start, time.process_time()
    recall = index.build(0.98, queries=tuning, **options)
    notes = {"write": stored, "build": time.process_time() - start, "tuned to": recall}
    notes |= {"bytes": folder_bytes(folder), "bytes of vectors": written, "effort": str(getattr(index, "effort", ""))}
    return index, notes


def main() -> None:
    parser = arguments(__doc__, "index")
    parser.add_argument("--data_dir", type=Path, required=True, help="Folder of AfriQA, MAFAND, NTREX, Multi30k.")
    parser.add_argument("--cache_dir", type=Path, default=Path("outputs/index_benchmark"), help="Encoded texts.")
    parser.add_argument("--packs", nargs="*", default=[], metavar="LANGUAGE=FOLDER", help="Packs of ha, ig and yo.")
    parser.add_argument("--passages", type=int, nargs="+", default=[5_361, 20_000, 58_634, 110_000])
    parser.add_argument("--dim", type=int, nargs="+", default=[128], help="Numbers in a vector (PCA below 384).")
    parser.add_argument("--queries", type=int, default=40, help="Questions in each language.")
    default = [name for name in ENGINES if "half precision" not in name]
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=default)
    options = parser.parse_args()
    if options.quick:
        options.passages, options.queries = [1_000], 5
    torch.set_num_threads(options.threads)
    data, cache = options.data_dir, options.cache_dir
    named = list(islice(texts(data), max(options.passages)))
    model, processor = OpticalModel.from_pretrained(DEFAULT_BASE), OpticalProcessor.from_pretrained(DEFAULT_BASE)
    everything = cached(
        cache / f"documents-{len(named)}.safetensors",
        lambda: encode_texts(
            model, processor, [text for _, text in named], "document", dtype=torch.float16, show_progress=True
        ),
    )
    packs = dict(each.split("=", 1) for each in options.packs)
    groups: dict[str, list[torch.Tensor]] = {"tuning": [], "English": [], **({"packs": []} if packs else {})}
    relevant: list[set[str]] = []
    for language in LANGUAGES:
        dataset = load_beir(data / "afriqa" / language, "train", data / "afriqa" / "corpus.jsonl.gz")
        keys = list(dataset.queries)
        measured, tuning = keys[: options.queries], keys[options.queries : 2 * options.queries]
        translations = {key: query.translation for key, query in dataset.queries.items()}
        encoded = [
            encode_texts(model, processor, [translations[key] for key in own], "query") for own in (tuning, measured)
        ]
        groups["tuning"] += encoded[0].to_list()
        groups["English"] += encoded[1].to_list()
        relevant += [{key for key, value in dataset.qrels[own].items() if value > 0} for own in measured]
        if packs:
            retriever = OpticalRetriever.from_pretrained(packs[language], device="cpu")
            groups["packs"] += retriever.encode_queries([dataset.queries[key].text for key in measured])
    results: list[Measured] = []
    for dim in options.dim:
        projection = fit_projection(everything.values[::4], dim) if dim < everything.dim else None
        queries = {name: projected(TokenVectors.from_list(own), projection) for name, own in groups.items()}
        vectors = projected(everything, projection)
        for passages in options.passages:
            ids, documents = [key for key, _ in named[:passages]], vectors[:passages]
            exact = {name: search(own, documents, DEPTH, document_ids=ids) for name, own in queries.items()}
            for name in options.engines:
                with tempfile.TemporaryDirectory(dir=cache) as folder:
                    result = measure(name, Path(folder), ids, documents, queries, exact, relevant)
                result.setting = {"passages": passages, "dim": dim}
                results.append(result)
                print(json.dumps({"name": name, **result.setting, **result.notes}), flush=True)
    write(options.output, results, passages=options.passages)
    show(results)


def measure(name, folder, ids, documents, queries, exact, relevant) -> Measured:
    """Build an engine, and measure it on each group of queries."""
    engine, dtype, settings = ENGINES[name]
    index, notes = build(engine, dtype, settings, folder / "index", ids, documents, queries["tuning"])
    notes["bytes a token"] = notes.pop("bytes") / len(documents.values)
    seconds = []
    for group in [each for each in queries if each != "tuning"]:
        own = queries[group]
        index.search(own[:5], 10)
        start = time.process_time()
        found = [index.search(own[i : i + 1], 10)[0] for i in range(len(own))]
        seconds.append((time.process_time() - start) / len(own))
        deep = index.search(own, DEPTH)
        best = [hits[:10] for hits in exact[group]]
        notes |= {
            f"ms, {group}": 1e3 * seconds[-1],
            f"recall@10, {group}": measured_recall(found, best),
            f"recall@100, {group}": measured_recall(deep, exact[group]),
            f"MAP, {group}": average_precision(deep, relevant),
            f"exact MAP, {group}": average_precision(exact[group], relevant),
        }
    if engine is not Faiss:
        index.close()
        queries["English"].save(folder / "queries.safetensors")
        notes["memory MB"] = apart(held, str(folder / "index"), str(folder / "queries.safetensors"))
    return Measured({}, name, seconds, notes)


def show(results: list[Measured]) -> None:
    columns = [
        name for name in results[0].notes if name.startswith(("ms", "recall", "MAP", "bytes a", "memory", "build"))
    ]
    rows = [
        [result.name, *map(str, result.setting.values()), *(result.notes.get(name, "") for name in columns)]
        for result in results
    ]
    print(table(["", "passages", "dim", *columns], rows))


if __name__ == "__main__":
    main()
