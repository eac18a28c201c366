"""AfriQA and CIRAL, which neither `ir_datasets` nor `mteb` keeps: their published files, as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import DownloadManager

from ...errors import DataError, short_repr
from ...storage.data_files import read_lines, read_objects
from ..datasets import Document, Query, read_judgement, read_rows, text_field
from .derived import RawBenchmark


# A commit, so that corpus and ids stay what they are.
_AFRIQA = "https://raw.githubusercontent.com/masakhane-io/afriqa/5c29933753692c28773c34ac1f68482007f1d2bb"
_AFRIQA_LANGUAGES = {
    "bem": "bem", "fon": "fon", "ha": "hau", "ig": "ibo", "rw": "kin", "sw": "swa", "tw": "twi", "yo": "yor",
    "zu": "zul",
}  # fmt: skip
_AFRIQA_FRENCH = ("fon",)  # the passages; those of the others are English
_AFRIQA_SPLITS = {"swa": ("test",), "yor": ("train", "test")}  # the others have dev too

_CIRAL = "hf://datasets/CIRAL/ciral"
_CIRAL_CORPUS = "hf://datasets/CIRAL/ciral-corpus"
_CIRAL_LANGUAGES = {"ha": "hausa", "so": "somali", "sw": "swahili", "yo": "yoruba"}
_CIRAL_SPLITS = ("dev", "test-a", "test-a-pools", "test-b")


def read_afriqa(language: str | None, split: str | None, folder: str | os.PathLike | None) -> tuple[str, RawBenchmark]:
    """
    AfriQA (Ogundepo et al. 2023): questions asked in an African language, each with its human translation and the one
    Wikipedia passage that answers it. The documents are the gold passages of all splits and languages, the English
    ones or, for Fon, the French ones. Questions without a passage are left out.
    """
    language, code = _choose("afriqa", language, _AFRIQA_LANGUAGES)
    split = split or "test"
    if split not in _afriqa_splits(code):
        raise DataError(f"split is {split!r}; for {language!r} afriqa has {', '.join(_afriqa_splits(code))}")
    pivot = "fr" if code in _AFRIQA_FRENCH else "en"
    asked: Path | None = None
    documents: dict[Document, str] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for own in _AFRIQA_LANGUAGES.values():
        if (own in _AFRIQA_FRENCH) != (code in _AFRIQA_FRENCH):
            continue
        for part in _afriqa_splits(own):
            file = f"data/gold_passages/{own}/gold_span_passages.afriqa.{own}.{pivot}.{part}.json"
            path = _fetch(folder or _AFRIQA, file)
            asked = path if (own, part) == (code, split) else asked
            for row, where in read_objects(path):
                # Either may be null, empty or NaN.
                if not all(isinstance(row.get(name), str) and row[name] for name in ("context", "question_lang")):
                    continue
                passage = Document(text_field(row, "title", where, default=""), row["context"])
                document = documents.setdefault(passage, f"{pivot}-{len(documents)}")
                if path == asked:
                    if not isinstance(row.get("id"), (int, str)):
                        raise DataError(f"{where}: 'id' must be a string or a number, got {short_repr(row.get('id'))}")
                    query = f"{split}-{row['id']}"
                    queries[query] = Query(row["question_lang"], text_field(row, "question_translated", where))
                    qrels[query] = {document: 1}
    corpus = ((key, document) for document, key in documents.items())
    return f"afriqa/{language}/{split}", RawBenchmark(corpus, queries, qrels, origin=str(asked))


def _afriqa_splits(code: str) -> tuple[str, ...]:
    return _AFRIQA_SPLITS.get(code, ("train", "dev", "test"))


def read_ciral(language: str | None, split: str | None, folder: str | os.PathLike | None) -> tuple[str, RawBenchmark]:
    """
    CIRAL (Adeyemi et al. 2024): English queries over news passages in an African language. `test-a-pools` are the
    queries of `test-a` with the judgements pooled from the shared task.
    """
    short, word = _choose("ciral", language, _CIRAL_LANGUAGES)
    split = split or "test-a"
    if split not in _CIRAL_SPLITS:
        raise DataError(f"split is {split!r}; ciral has {', '.join(_CIRAL_SPLITS)}")
    base = folder or _CIRAL
    topics = _fetch(base, f"ciral-{word}/topics/topics.ciral-v1.0-{short}-{split.removesuffix('-pools')}.tsv")
    judgements = _fetch(base, f"ciral-{word}/qrels/qrels.ciral-v1.0-{short}-{split}.tsv")
    passages = _fetch(folder or _CIRAL_CORPUS, f"passages-v1.0/{word}_passages.jsonl")
    queries = {key: Query(text) for (key, text), _ in _read_fields(topics, 2, "\t")}
    qrels: dict[str, dict[str, int]] = {}
    for (query, _, document, score), where in _read_fields(judgements, 4):
        qrels.setdefault(query, {})[document] = read_judgement(score, where)
    corpus = (
        (key, Document(text_field(row, "title", where, default=""), text_field(row, "text", where)))
        for key, row, where in read_rows(passages, "docid")
    )
    return f"ciral/{short}/{split}", RawBenchmark(
        corpus, queries, qrels, origin=f"{topics}, {judgements} and {passages}"
    )


def _choose(name: str, language: str | None, languages: dict[str, str]) -> tuple[str, str]:
    """The code of a language, and what the files call it; either will do for `language`."""
    for pair in languages.items():
        if language in pair:
            return pair
    known = ", ".join(f"{code} ({own})" for code, own in languages.items())
    raise DataError(f"language is {language!r}; {name} has {known}")


def _fetch(base: str | os.PathLike, file: str) -> Path:
    """The local path of `file`, downloaded and cached where `base` is an address."""
    if "://" not in os.fspath(base):
        path = Path(base) / file
        if not path.is_file():
            raise DataError(f"there is no file {path}; folder must hold the files as they were published")
        return path
    try:
        return Path(DownloadManager().download(f"{base}/{file}"))
    except Exception as error:  # `datasets` and `huggingface_hub` share no class for what can go wrong on the way
        raise ConnectionError(
            f"{base}/{file} could not be downloaded ({error}); try again, or fetch the files elsewhere and name their "
            "folder with folder="
        ) from error


def _read_fields(path: Path, count: int, separator: str | None = None) -> Iterator[tuple[list[str], str]]:
    for where, line in read_lines(path):
        fields = line.split(separator)
        if len(fields) != count:
            raise DataError(f"{where}: {len(fields)} fields in place of {count}; fetch the file again")
        yield fields, where
