from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from ..errors import DataError


# File ending -> builder of the datasets library and its options. A compression ending may follow.
_BUILDERS = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".parquet": ("parquet", {}),
}
_COMPRESSED = {".gz", ".xz", ".zst", ".bz2"}


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
            A JSON, CSV, TSV or Parquet file, compressed or not, or the id of a dataset on the Hub.
        language (`str`), teacher_language (`str`, defaults to `"en"`):
            Language codes; the keys of the `translation` feature where no `columns` are named.
        config_name (`str`, *optional*), split (`str`, defaults to `"train"`), revision (`str`, *optional*):
            Which part of a Hub dataset. A file is one split.
        columns (`tuple[str, str]`, *optional*):
            The column of `language` and that of `teacher_language`, for pairs kept in two columns.

    Returns:
        `datasets.Dataset` with the columns `translation` (`{teacher_language: str, language: str}`) and `index` (the
        row number in the source, counted from 0).

    Raises:
        DataError: the file is missing, unreadable or empty, or a language or column is not there.
    """
    if language == teacher_language:
        raise DataError(f"language and teacher_language are both {language!r}; a pair needs two languages")
    dataset = _load(name_or_file, config_name, split, revision)
    if len(dataset) == 0:
        raise DataError(f"{name_or_file} holds no sentence pairs")
    student_column, teacher_column = columns or (None, None)
    if columns is not None:
        for column in columns:
            if column not in dataset.column_names:
                raise DataError(
                    f"{name_or_file} has no column {column!r}; its columns are {', '.join(dataset.column_names)}"
                )
    else:
        _check_translation(dataset, name_or_file, language, teacher_language)

    def pair(row: dict, index: int) -> dict:
        source = row if columns is not None else (row["translation"] or {})
        student = source.get(student_column or language)
        teacher = source.get(teacher_column or teacher_language)
        return {"translation": {teacher_language: _text(teacher), language: _text(student)}, "index": index}

    # In memory: the texts of a low-resource language are small, and nothing is left behind on the disk.
    return Dataset.from_list([pair(row, index) for index, row in enumerate(dataset)])


def filter_bitext(
    dataset: Dataset, language: str, teacher_language: str = "en", *, max_length_ratio: float = 6.0
) -> tuple[Dataset, FilterCounts]:
    """
    Drops pairs with an empty side, repeated pairs, and pairs whose sides can hardly say the same.

    Args:
        dataset (`datasets.Dataset`): from [`load_bitext`].
        language (`str`), teacher_language (`str`, defaults to `"en"`): language codes.
        max_length_ratio (`float`, defaults to 6.0):
            A pair is dropped when one side has over this many times the characters of the other. Twenty characters
            are added to both, so that two short sides are not compared.

    Returns:
        `(datasets.Dataset, FilterCounts)`: the pairs kept, in order, and the counts.

    Raises:
        DataError: no pair is left.
    """
    counts = FilterCounts()
    kept: list[int] = []
    seen: set[tuple[str, str]] = set()
    for position, translation in enumerate(dataset["translation"]):
        student, teacher = translation[language].strip(), translation[teacher_language].strip()
        lengths = sorted((len(student) + 20, len(teacher) + 20))
        if not student or not teacher:
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


def _load(name_or_file: str | os.PathLike, config_name: str | None, split: str, revision: str | None) -> Dataset:
    path = Path(name_or_file)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED else (suffixes or [""])[-1]
    if path.is_file():
        if ending not in _BUILDERS:
            raise DataError(f"{path} ends in {ending!r}; bitext is read from {', '.join(sorted(_BUILDERS))} files")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty")
        builder, options = _BUILDERS[ending]
        try:
            return load_dataset(builder, data_files=str(path), split="train", keep_in_memory=True, **options)
        except (DatasetGenerationError, OSError, ValueError, EOFError) as error:
            reason = error.__cause__ or error
            raise DataError(f"{path} could not be read as bitext: {reason}") from error
    if ending in _BUILDERS or path.is_absolute():
        raise DataError(f"there is no file {path}")
    try:
        return load_dataset(str(name_or_file), config_name, split=split, revision=revision)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(
            f"{str(name_or_file)!r} is neither a file on this machine nor a dataset on the Hub that can be reached"
        ) from error


def _check_translation(dataset: Dataset, name: str | os.PathLike, language: str, teacher_language: str) -> None:
    if "translation" not in dataset.column_names:
        raise DataError(
            f"{name} has no `translation` column (its columns: {', '.join(dataset.column_names)}); name the two text "
            "columns with `columns`"
        )
    first = dataset[0]["translation"]
    keys = sorted(first) if isinstance(first, dict) else []
    for code in (language, teacher_language):
        if code not in keys:
            raise DataError(f"{name} has no language {code!r} in `translation`; it has {', '.join(keys) or 'none'}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
