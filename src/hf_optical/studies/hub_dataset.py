"""A finished study as a Hub dataset: report, settings, and the scores of every method on every query."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitInfo, DatasetCard, DatasetCardData

from ..errors import DataError
from ..hub import upload_folder
from ..hub.cards import iso_codes
from ..storage.staging import staged_directory
from .public import map_texts, public_yaml, without_local_paths
from .settings import TEACHER_LANGUAGE, StudyConfig
from .store import Record


# Repository in the card's code if it is not known.
PLACE = "REPOSITORY_OR_FOLDER"
# Columns of `runs.parquet`, which has one row per record. `per_query.parquet` has those before `pairs` too.
_COLUMNS = {
    "method": pa.string(),
    "kind": pa.string(),
    "test": pa.string(),
    "language": pa.string(),
    "corpus": pa.string(),
    "languages": pa.list_(pa.string()),
    "size": pa.int64(),
    "seed": pa.int64(),
    "perturbation": pa.string(),
    "strength": pa.float64(),
    "pairs": pa.int64(),
    "seconds": pa.float64(),
    "search_seconds": pa.float64(),
    "queries": pa.int64(),
    "query": pa.string(),
}
_KEYS = list(_COLUMNS)[: list(_COLUMNS).index("pairs")]


def publish_study(
    output_dir: str | os.PathLike,
    repo_id: str,
    config: StudyConfig,
    records: Sequence[Record],
    *,
    license: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """
    Upload a study to a dataset repository on the Hub, creating it if needed. See [`write_dataset`].

    Args:
        output_dir (`str` or `os.PathLike`): folder of the report, from [`write_report`].
        repo_id (`str`): the repository, `"name"` or `"namespace/name"`.
        config ([`StudyConfig`]), records (sequence of [`Record`]): the study and its results.
        license (`str`, *optional*): licence identifier of the Hub for the dataset.
        private (`bool`, *optional*): whether a new repository is private.
        token (`bool` or `str`, *optional*): as in `huggingface_hub`; by default the saved one.
        commit_message (`str`, *optional*): commit message.

    Returns:
        [`~huggingface_hub.CommitInfo`]: a `str`, the URL of the commit.

    Raises:
        DataError: there is no report in `output_dir`, or there are no records.
        ValueError: `repo_id` is not a valid repository id, or the Hub rejects the card's metadata.
        PermissionError: there is no token, or it has no write access.
        OSError: the connection or the Hub failed. Calling it again completes the upload.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, output_dir, config, records, license=license, repo_id=repo_id)
        return upload_folder(  # type: ignore[return-value]  # uploads before it returns
            folder,
            repo_id,
            repo_type="dataset",
            private=private,
            token=token,
            commit_message=commit_message or f"Upload the study {config.name}",
            delete_patterns=["figures/*"],  # of an older report
        )


def write_dataset(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike,
    config: StudyConfig,
    records: Sequence[Record],
    *,
    license: str | None = None,
    repo_id: str | None = None,
) -> None:
    """
    Write a study as a dataset that `datasets.load_dataset` opens: `README.md`, `report.md`, `results.json`,
    `figures`, `study.yaml`, and the scores in `per_query.parquet` and `runs.parquet`.

    Absolute paths are shortened to their last part. Texts of queries and documents are not included. See
    [`publish_study`] for arguments and errors.
    """
    if not records:
        raise DataError(f"the study {config.name} has no results to publish; run it first")
    output_dir = Path(output_dir)
    texts = {name: _read(output_dir, name) for name in ("report.md", "results.json")}
    texts["report.md"] = without_local_paths(texts["report.md"])
    results = map_texts(json.loads(texts["results.json"]), without_local_paths)
    texts["results.json"] = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    texts["README.md"] = _card(config, texts["report.md"], license, repo_id)
    if config.file is not None:
        texts["study.yaml"] = public_yaml(config.file)
    figures = [Path(name).name for name in re.findall(r"\(figures/([^)]+)\)", texts["report.md"])]
    with staged_directory(folder) as staged:
        for name, text in texts.items():
            (staged / name).write_text(text, encoding="utf-8")
        (staged / "figures").mkdir()
        for name in figures:
            (staged / "figures" / name).write_bytes((output_dir / "figures" / name).read_bytes())
        pq.write_table(_runs(config, records), staged / "runs.parquet", compression="zstd")
        pq.write_table(_per_query(config, records), staged / "per_query.parquet", compression="zstd")


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{folder} has no {name}; write the report first") from error


def _card(config: StudyConfig, report: str, license: str | None, repo_id: str | None) -> str:
    data = DatasetCardData(
        pretty_name=config.title or config.name,
        language=iso_codes([*config.languages, TEACHER_LANGUAGE]),
        license=license,
        task_categories=["text-retrieval"],
        tags=["hf-optical", "late-interaction", "cross-lingual", "evaluation-results"],
        configs=[
            {"config_name": "per_query", "data_files": "per_query.parquet", "default": True},
            {"config_name": "runs", "data_files": "runs.parquet"},
        ],
    )
    introduction, *sections = re.split(r"^(?=## )", report, flags=re.MULTILINE)
    card = DatasetCard.from_template(
        data,
        template_str=files("hf_optical.hub_cards").joinpath("study.md").read_text(encoding="utf-8"),
        title=data.pretty_name,
        introduction=introduction.partition("\n")[2].strip(),
        findings=next((text for text in sections if text.startswith("## What this says")), "").strip(),
        figures=re.findall(r"^!\[.*$", report, flags=re.MULTILINE),
        has_settings=config.file is not None,
        measure=config.measures[0],
        measures=", ".join(f"`{measure}`" for measure in config.measures),
        license=license,
        place=repo_id or PLACE,
    )
    # Empty parts leave blank lines.
    return re.sub(r"\n{3,}", "\n\n", str(card)).strip() + "\n"


def _runs(config: StudyConfig, records: Sequence[Record]) -> pa.Table:
    rows = [
        {name: getattr(record, name) for name in _COLUMNS if name not in ("queries", "query")}
        | {"queries": len(record.values[config.measures[0]])}
        | {measure: record.mean(measure) for measure in config.measures}
        for record in records
    ]
    return _table(rows, config)


def _per_query(config: StudyConfig, records: Sequence[Record]) -> pa.Table:
    rows = [
        {name: getattr(record, name) for name in _KEYS}
        | {"query": query}
        | {measure: record.values[measure][query] for measure in config.measures}
        for record in records
        for query in record.values[config.measures[0]]
    ]
    return _table(rows, config)


def _table(rows: list[dict[str, Any]], config: StudyConfig) -> pa.Table:
    columns = _COLUMNS | dict.fromkeys(config.measures, pa.float64())
    return pa.Table.from_pylist(rows, pa.schema([(name, columns[name]) for name in rows[0]]))
