from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, Value, concatenate_datasets, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from ..errors import DataError
from ..model.texts import is_blank
from .reading import COMPRESSED, listed, read_objects, read_parquet, read_table, shown, told


_ENDINGS = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
_ROWS_AT_A_TIME, _CHARACTERS_AT_A_TIME = 10_000, 2**26
_EXAMPLE = '{"translation": {"en": "...", "ha": "..."}}'


@dataclass
class FilterCounts:
    """How many sentence pairs were kept, and why the others were not."""

    kept: int = 0
    empty: int = 0
    duplicate: int = 0
    unequal: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in asdict(self).items())


def load_bitext(
    name_or_file: str | os.PathLike,
    language: str,
    teacher_language: str = "en",
    *,
    config_name: str | None = None,
    split: str = "train",
    columns: tuple[str, str] | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Sentence pairs from a file or a Hub dataset.

    Args:
        name_or_file (`str` or `os.PathLike`):
            A file, or the id of a dataset on the Hub, or the folder of one. The file's name ends in `.jsonl`, `.json`
            (one list, or one object a line), `.csv`, `.tsv` (both with a header) or `.parquet`; `.gz`, `.bz2` or `.xz`
            may follow.
        language (`str`), teacher_language (`str`, defaults to `"en"`):
            Language codes; the keys of the `translation` feature where no `columns` are named.
        config_name (`str`, *optional*), split (`str`, defaults to `"train"`), revision (`str`, *optional*):
            Which part of a dataset. A file is one split.
        columns (`tuple[str, str]`, *optional*):
            The column of `language` and that of `teacher_language`, for pairs kept in two columns.

    Returns:
        `datasets.Dataset` with the columns `translation` (`{teacher_language: str, language: str}`), `index` (the row
        number in the source, counted from 0) and `length` (characters of both, for
        `train_sampling_strategy="group_by_length"`). A text that is missing is `""`.

    Raises:
        DataError: the file or dataset is missing, unreadable or empty, a language or column is not there, or a text is
            something else or holds half a character (an unpaired surrogate). The message names the line or row.
    """
    if language == teacher_language:
        raise DataError(f"language and teacher_language are both {language!r}; a pair needs two languages")
    if columns is not None and (isinstance(columns, str) or len(columns) != 2):
        raise DataError(f"columns is {shown(columns)}; name that of {language!r} and that of {teacher_language!r}")
    if columns is not None and columns[0] == columns[1]:
        raise DataError(f"columns names {columns[0]!r} twice; name the column of {language!r} and that of the other")
    student_key, teacher_key = columns or (language, teacher_language)

    # Files are not read by the loaders of the datasets library: these guess types (a sentence "NA" is missing, "12" a
    # number), leave a copy in the user's cache, and cannot say which row is wrong.
    found: dict[str, None] = {}

    def pairs() -> Iterator[tuple[dict[str, Any], int]]:
        for index, row in enumerate(read_rows(name_or_file, config_name, split, revision)):
            where = f"{name_or_file}, row {index}"
            texts = row if columns else _translation(row, where)
            found.update(dict.fromkeys(texts))
            pair = {teacher_language: text_of(texts, teacher_key, where), language: text_of(texts, student_key, where)}
            length = sum(map(len, pair.values()))
            yield {"translation": pair, "index": index, "length": length}, length

    text = Value("string")
    kinds = {
        "translation": {teacher_language: text, language: text},
        "index": Value("int64"),
        "length": Value("int64"),
    }
    dataset = gathered(pairs(), Features(kinds))
    if not len(dataset):
        raise DataError(f"{name_or_file} holds no sentence pairs")
    for key in (student_key, teacher_key):
        if key not in found:
            kind = "column" if columns else "language"
            raise DataError(f"{name_or_file} has no {kind} {key!r}; it has {listed(found) or 'none'}")
    return dataset


def gathered(rows: Iterable[tuple[dict[str, Any], int]], features: Features) -> Dataset:
    """
    A dataset of rows, each of which comes with the number of its characters.

    In parts: Arrow takes a fifth of what Python does, and an array of it holds 2 GiB at most.
    """
    parts: list[Dataset] = []
    waiting: list[dict[str, Any]] = []
    characters = 0

    def keep() -> None:
        # `Dataset.from_list` looks at each value in Python where it is told their kinds.
        parts.append(Dataset(pa.Table.from_pylist(waiting, schema=features.arrow_schema)))
        waiting.clear()

    for row, length in rows:
        waiting.append(row)
        characters += length
        if len(waiting) == _ROWS_AT_A_TIME or characters > _CHARACTERS_AT_A_TIME:
            keep()
            characters = 0
    if waiting or not parts:
        keep()
    return concatenate_datasets(parts)


def require_languages(pairs: Dataset, codes: Iterable[str]) -> None:
    """Raises [`DataError`] unless there are pairs, and the first holds the languages."""
    found = (pairs[0].get("translation") or {}) if len(pairs) else {}
    for code in codes:
        if code not in found:
            raise DataError(
                f"pairs hold no language {code!r} but {listed(found) or 'no pair'}; name the languages of load_bitext"
            )


def sentences(pairs: Dataset, language: str) -> Iterator[str]:
    """The sentences of one language, some thousand in memory at a time; `""` where one is missing."""
    for rows in pairs.iter(_ROWS_AT_A_TIME):
        yield from (translation[language] or "" for translation in rows["translation"])


def spread(pairs: Dataset, most: int) -> Dataset:
    """At most so many of the sentence pairs, from the first to the last at even distances."""
    if len(pairs) <= most:
        return pairs
    return pairs.select(np.linspace(0, len(pairs) - 1, most).astype(np.int64))


def filter_bitext(
    dataset: Dataset, language: str, teacher_language: str = "en", *, max_length_ratio: float = 6.0
) -> tuple[Dataset, FilterCounts]:
    """
    Drops pairs with a side of which nothing is seen (empty, or spaces, control and zero-width characters alone),
    repeated pairs, and pairs whose sides can hardly say the same.

    Args:
        dataset (`datasets.Dataset`): from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        max_length_ratio (`float`, defaults to 6.0):
            A pair is dropped when one side has over this many times the characters of the other. Twenty characters
            are added to both, so that two short sides are not compared.

    Returns:
        `(datasets.Dataset, FilterCounts)`: the pairs kept, in order, and the counts.

    Raises:
        DataError: a language is not in the pairs, or no pair is left.
    """
    require_languages(dataset, (language, teacher_language))
    counts = FilterCounts()
    kept: list[int] = []
    seen: set[tuple[str, str]] = set()
    for position, translation in enumerate(dataset["translation"]):
        student, teacher = (((translation or {}).get(code) or "").strip() for code in (language, teacher_language))
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
        raise DataError(f"no sentence pair is left of {len(dataset)} ({counts}); look at the file")
    return dataset.select(kept), counts


def read_rows(
    name_or_file: str | os.PathLike,
    config_name: str | None,
    split: str,
    revision: str | None,
    example: str = _EXAMPLE,
) -> Iterable[dict[str, Any]]:
    """
    The rows of a file, or of a dataset from the Hub or a folder; raises [`DataError`] for what cannot be read, with an
    `example` of a row.
    """
    if not os.fspath(name_or_file):
        raise DataError("the name of the file or dataset is empty; pass a file, a folder, or the id of a dataset")
    path = Path(name_or_file)
    ending = path.with_suffix("").suffix if path.suffix.lower() in COMPRESSED else path.suffix
    ending = ending.lower()
    # `Path` raises where a name is too long for the system.
    if os.path.isfile(path):
        if ending not in _ENDINGS:
            raise DataError(f"{path} ends in {ending!r}; rows are read from {', '.join(_ENDINGS)} files")
        return _file_rows(path, ending, example)
    if ending in _ENDINGS or (path.is_absolute() and not os.path.isdir(path)):
        raise DataError(f"there is no file {path}; check the path")
    return _dataset_rows(str(name_or_file), config_name, split, revision)


def _dataset_rows(name: str, config_name: str | None, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    try:
        builder = load_dataset_builder(name, config_name, revision=revision)
        _require_own_files(name, builder)
        builder.download_and_prepare()
        yield from builder.as_dataset(split)
    except DataError:
        raise
    # Nothing but the library is at work here, and there is no class for all that it raises on a README of others.
    except Exception as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise DataError(
            f"{name!r} is no file on this machine, and could not be opened as a dataset ({told(reason)}); check the "
            "name, config_name and split, or the connection"
        ) from error


def _require_own_files(name: str, builder: DatasetBuilder) -> None:
    """Refuses a dataset whose README names files of this machine that are not within its folder."""
    folders = (os.path.abspath(name) + os.sep, os.path.realpath(name) + os.sep) if os.path.isdir(name) else ()
    for file in (file for files in (builder.config.data_files or {}).values() for file in files):
        # What is inside an archive stands before its path.
        place = str(file).rpartition("::")[2]
        if "://" in place or os.path.abspath(place).startswith(folders):
            continue
        raise DataError(f"{name!r} names {shown(place)}, a file outside of it; take it out of its README.md")


def _file_rows(path: Path, ending: str, example: str) -> Iterator[dict[str, Any]]:
    if ending == ".parquet":
        yield from read_parquet(path)
    elif ending in (".csv", ".tsv"):
        yield from read_table(path, "\t" if ending == ".tsv" else ",")
    else:
        yield from (row for row, _ in read_objects(path, lists=True, example=example))


def _translation(row: dict[str, Any], where: str) -> dict[str, Any]:
    if "translation" not in row:
        raise DataError(
            f"{where}: no `translation` (it has {listed(row) or 'nothing'}); name the two text columns with `columns`"
        )
    texts = row["translation"] or {}
    if not isinstance(texts, dict):
        raise DataError(f"{where}: `translation` is {shown(texts)}; it must map language to text, as in {_EXAMPLE}")
    return texts


def text_of(texts: dict[str, Any], key: str, where: str) -> str:
    """A text of a row, `""` where it is missing; raises [`DataError`] for what is no text."""
    text = texts.get(key)
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: {key!r} is {shown(text)}; it must be text")
    return text or ""
