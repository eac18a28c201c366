"""Opening datasets of the `datasets` library whose README may be wrong or hostile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from datasets import DatasetBuilder, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from ..errors import DataError, error_summary, short_repr


def read_dataset(name: str, config_name: str | None, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    """Read the rows of a dataset folder or Hub dataset."""
    try:
        builder = load_dataset_builder(name, config_name, revision=revision)
        _check_data_files(name, builder)
        builder.download_and_prepare()
        yield from builder.as_dataset(split)
    # A README written by others can make `datasets` raise errors of any class.
    except Exception as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise DataError(
            f"{name!r} is not a file and cannot be opened as a dataset ({error_summary(reason)}); check the name, "
            "config_name and split, or the connection"
        ) from error


def _check_data_files(name: str, builder: DatasetBuilder) -> None:
    """Refuse a dataset whose README names local files outside its folder."""
    folders = (os.path.abspath(name) + os.sep, os.path.realpath(name) + os.sep) if os.path.isdir(name) else ()
    for file in (file for files in (builder.config.data_files or {}).values() for file in files):
        # The path of an archive comes last in the URL of a file inside it.
        place = str(file).rpartition("::")[2]
        if "://" not in place and not os.path.abspath(place).startswith(folders):
            raise ValueError(f"its README.md names {short_repr(place)}, a file outside its folder")
