"""Loading and filtering sentence pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from ..errors import DataError, short_repr
from ..model.texts import is_blank
from .sources import build_dataset, check_keys, read_rows, read_text, source_name


_ROWS_AT_A_TIME = 10_000


@dataclass
class FilterCounts:
    """Number of sentence pairs kept, and of those dropped for each reason."""

    kept: int = 0
    empty: int = 0
    duplicate: int = 0
    unequal: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in asdict(self).items())


def load_bitext(
    name_or_file: Any,
    language: str,
    teacher_language: str = "en",
    *,
    config_name: str | None = None,
    split: str = "train",
    columns: tuple[str, str] | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Load sentence pairs from a file, a Hub dataset or an object in memory.

    Args:
        name_or_file (`str`, `os.PathLike`, or rows in memory):
            One of

            - a file whose name ends in `.jsonl`, `.json` (a list, or one object a line), `.csv`, `.tsv` (both with a
              header), `.parquet` or `.tmx`, optionally followed by `.gz`, `.bz2` or `.xz`;
            - two aligned text files with a sentence a line (Moses, OPUS): the name of either, such as `train.sw` where
              `train.en` is in the same folder, the name they share (`train`), or a tuple of both files, that of
              `language` first;
            - a `.zip` archive of one of these;
            - a dataset folder, or the id of a Hub dataset;
            - a `datasets.Dataset`, `IterableDataset` or `DatasetDict`, a list of dictionaries, or a data frame.
        language (`str`), teacher_language (`str`, defaults to `"en"`):
            Language codes: the keys of the `translation` feature or, in rows without it, the names of the columns,
            unless `columns` are given.
        config_name (`str`, *optional*), split (`str`, defaults to `"train"`), revision (`str`, *optional*):
            Configuration, split and revision of a dataset. A file is a single split.
        columns (`tuple[str, str]`, *optional*):
            Names of the columns with the sentences in `language` and in `teacher_language`.

    Returns:
        `datasets.Dataset` with the columns `translation` (`{teacher_language: str, language: str}`), `index` (row
        number in the source, from 0) and `length` (characters of both sentences, for
        `train_sampling_strategy="group_by_length"`). A missing sentence is `""`.

    Raises:
        DataError: the file or dataset is missing, unreadable or empty, it lacks a language or column, or a sentence is
            not text or holds an unpaired surrogate. The message names the line or row.
    """
    keys = columns or (language, teacher_language)
    if language == teacher_language or len(set(keys)) != 2:
        raise DataError(
            "language and teacher_language must differ, and so must their two columns, "
            f"got {language!r}, {teacher_language!r} and columns={short_repr(columns)}"
        )
    name = source_name(name_or_file)
    found: dict[str, None] = {}
    rows = read_rows(name_or_file, config_name, split, revision, (language, teacher_language))

    def pairs() -> Iterator[tuple[dict[str, Any], int]]:
        for index, row in enumerate(rows):
            place = f"{name}, row {index}"
            texts = row if columns else translation_of(row, place)
            found.update(dict.fromkeys(texts))
            student, teacher = (read_text(texts.get(key), key, place) for key in keys)
            length = len(student) + len(teacher)
            pair = {teacher_language: teacher, language: student}
            yield {"translation": pair, "index": index, "length": length}, length

    features = {
        "translation": {teacher_language: Value("string"), language: Value("string")},
        "index": Value("int64"),
        "length": Value("int64"),
    }
    dataset = build_dataset(pairs(), Features(features), name)
    cure = "" if columns else "; name the two text columns with `columns` if it has other names for them"
    check_keys(found, keys, f"{name} has no {'column' if columns else 'language'}", cure)
    return dataset


def filter_bitext(
    dataset: Dataset, language: str, teacher_language: str = "en", *, max_length_ratio: float = 6.0
) -> tuple[Dataset, FilterCounts]:
    """
    Drop pairs with a blank side, repeated pairs, and pairs whose lengths differ too much to be translations.

    A side is blank if it is empty or has only spaces, control and zero-width characters.

    Args:
        dataset (`datasets.Dataset`): from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        max_length_ratio (`float`, defaults to 6.0):
            Largest ratio of the number of characters of the two sides. Twenty characters are added to both, so that
            the ratio matters little for short sides.

    Returns:
        `(datasets.Dataset, FilterCounts)`: the pairs kept, in order, and the counts.

    Raises:
        DataError: a language is not in the pairs, or no pair is left.
    """
    check_languages(dataset, (language, teacher_language))
    counts = FilterCounts()
    kept: list[int] = []
    seen: set[tuple[str, str]] = set()
    sides = (iter_sentences(dataset, code) for code in (language, teacher_language))
    for position, pair in enumerate(zip(*sides, strict=True)):
        student, teacher = map(str.strip, pair)
        lengths = sorted((len(student) + 20, len(teacher) + 20))
        if is_blank(student) or is_blank(teacher):
            counts.empty += 1
        elif (student, teacher) in seen:
            counts.duplicate += 1
        elif lengths[1] > max_length_ratio * lengths[0]:
            counts.unequal += 1
        else:
            kept.append(position)
        seen.add((student, teacher))
    counts.kept = len(kept)
    if not kept:
        raise DataError(f"no sentence pair is left of {len(dataset)} ({counts}); check the file")
    return dataset.select(kept), counts


def check_languages(pairs: Dataset, codes: Iterable[str]) -> None:
    """Raise `DataError` unless there are pairs and the first one has all languages."""
    check_keys((pairs[0].get("translation") or {}) if len(pairs) else {}, codes, "the pairs have no language")


def iter_sentences(pairs: Dataset, language: str) -> Iterator[str]:
    """Iterate over the sentences of one language, with few in memory at a time; a missing one is `""`."""
    for rows in pairs.iter(_ROWS_AT_A_TIME):
        yield from ((translation or {}).get(language) or "" for translation in rows["translation"])


def sample_evenly(pairs: Dataset, most: int) -> Dataset:
    """Select at most `most` sentence pairs at even distances, including the first and the last."""
    if len(pairs) <= most:
        return pairs
    return pairs.select(np.linspace(0, len(pairs) - 1, most).astype(np.int64))


def translation_of(row: Any, place: str) -> Mapping[str, Any]:
    """The texts of a row by language: its `translation`, of either feature of `datasets`, or else its columns."""
    texts = row.get("translation", row) if isinstance(row, Mapping) else row
    if not isinstance(texts, Mapping | None):
        raise DataError(f"{place}: `translation` must map language codes to text, got {short_repr(texts)}")
    codes, values = ((texts or {}).get(name) for name in ("language", "translation"))
    if isinstance(codes, list) and isinstance(values, list):
        # `TranslationVariableLanguages`, which may have several translations in one language: the first is taken.
        return {code: text for code, text in zip(codes[::-1], values[::-1], strict=False) if isinstance(code, str)}
    return texts or {}
