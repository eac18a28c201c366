"""AfriQA and CIRAL in their published file formats, which neither `ir_datasets` nor `mteb` provides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import DownloadManager

from ...checks import check_choice
from ...errors import DataError
from ...storage.data_files import read_lines, read_objects
from ..datasets import BenchmarkParts, Document, Query, field, read_documents, read_qrels


# Pinned to a commit, so that corpus and ids do not change.
_AFRIQA = "https://raw.githubusercontent.com/masakhane-io/afriqa/5c29933753692c28773c34ac1f68482007f1d2bb"
_AFRIQA_LANGUAGES = {
    "bem": "bem", "fon": "fon", "ha": "hau", "ig": "ibo", "rw": "kin", "sw": "swa", "tw": "twi", "yo": "yor",
    "zu": "zul",
}  # fmt: skip
_AFRIQA_FRENCH = ("fon",)  # language of the passages; English for the others
_AFRIQA_SPLITS = {"swa": ("test",), "yor": ("train", "test")}  # the others have dev too

_CIRAL = "hf://datasets/CIRAL/ciral"
_CIRAL_CORPUS = "hf://datasets/CIRAL/ciral-corpus"
_CIRAL_LANGUAGES = {"ha": "hausa", "so": "somali", "sw": "swahili", "yo": "yoruba"}
_CIRAL_SPLITS = ("dev", "test-a", "test-a-pools", "test-b")


def read_afriqa(language: str | None, split: str | None, folder: str | os.PathLike | None) -> BenchmarkParts:
    """Read AfriQA (Ogundepo et al. 2023), over the gold passages of all splits in English or, for Fon, in French."""
    language, code = _choose("afriqa", language, _AFRIQA_LANGUAGES)
    split = split or "test"
    check_choice(f"split of afriqa in {language}", split, _afriqa_splits(code))
    pivot = "fr" if code in _AFRIQA_FRENCH else "en"
    documents: dict[Document, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for other in _AFRIQA_LANGUAGES.values():
        if (other in _AFRIQA_FRENCH) != (code in _AFRIQA_FRENCH):
            continue
        for part in _afriqa_splits(other):
            file = f"data/gold_passages/{other}/gold_span_passages.afriqa.{other}.{pivot}.{part}.json"
            for row, where in read_objects(_fetch(folder or _AFRIQA, file)):
                # Either may be null, empty or NaN.
                if not all(isinstance(row.get(name), str) and row[name] for name in ("context", "question_lang")):
                    continue
                passage = Document(field(row, "title", where, str, default=""), row["context"])
                document = documents.setdefault(passage, f"{pivot}-{len(documents)}")
                if (other, part) == (code, split):
                    query = f"{split}-{field(row, 'id', where, int, str)}"
                    queries[query] = Query(row["question_lang"], field(row, "question_translated", where, str))
                    qrels[query] = {document: 1}
    corpus = ((key, document) for document, key in documents.items())
    return BenchmarkParts(f"afriqa/{language}/{split}", corpus, queries, qrels, origin=str(folder or _AFRIQA))


def _afriqa_splits(code: str) -> tuple[str, ...]:
    return _AFRIQA_SPLITS.get(code, ("train", "dev", "test"))


def read_ciral(language: str | None, split: str | None, folder: str | os.PathLike | None) -> BenchmarkParts:
    """Read CIRAL (Adeyemi et al. 2024); `test-a-pools` is `test-a` with the pooled judgements of the shared task."""
    short, word = _choose("ciral", language, _CIRAL_LANGUAGES)
    split = split or "test-a"
    check_choice("split of ciral", split, _CIRAL_SPLITS)
    base = folder or _CIRAL
    topics = _fetch(base, f"ciral-{word}/topics/topics.ciral-v1.0-{short}-{split.removesuffix('-pools')}.tsv")
    qrels = _fetch(base, f"ciral-{word}/qrels/qrels.ciral-v1.0-{short}-{split}.tsv")
    passages = _fetch(folder or _CIRAL_CORPUS, f"passages-v1.0/{word}_passages.jsonl")
    return BenchmarkParts(
        f"ciral/{short}/{split}",
        read_documents(passages, "docid"),
        dict(_read_topics(topics)),
        read_qrels(qrels),
        origin=f"{topics}, {qrels} and {passages}",
    )


def _choose(name: str, language: str | None, languages: dict[str, str]) -> tuple[str, str]:
    """Return the language code, and the code used in the file names. `language` may be either."""
    codes = {own: code for code, own in languages.items()} | {code: code for code in languages}
    check_choice(f"language of {name}", language, codes)
    code = codes[str(language)]
    return code, languages[code]


def _fetch(base: str | os.PathLike, file: str) -> Path:
    """Return the local path of `file`, downloading it to the cache if `base` is a URL."""
    if "://" not in os.fspath(base):
        return Path(base) / file
    try:
        return Path(DownloadManager().download(f"{base}/{file}"))
    except Exception as error:  # `datasets` and `huggingface_hub` share no base class for download errors
        raise ConnectionError(f"cannot download {base}/{file} ({error}); retry, or use folder=") from error


def _read_topics(path: Path) -> Iterator[tuple[str, Query]]:
    for where, line in read_lines(path):
        key, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{where}: a topic must have an id and a text separated by a tab, got {line!r:.200}")
        yield key, Query(text)
