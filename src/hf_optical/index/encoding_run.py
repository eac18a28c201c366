"""Encode a corpus shard by shard, on one machine or many, and commit all shards as one Lance dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checks import check_choice, check_number, import_optional
from ..retrieval import open_retriever
from .encode_shard import ShardJob, encode_shard
from .encoding_plan import EncodingPlan, complete_plan
from .lance import LanceIndex
from .lance_rows import dataset_uri, open_dataset, read_settings, readable_errors
from .opening import check_engine
from .run_records import RunRecords
from .settings import IndexSettings
from .shards import Columns, CorpusFile, Piece, find_files
from .tasks import Pool, TaskFailure, Workers


if TYPE_CHECKING:
    import lance

# Failed shards after which a run ends early.
_MOST_FAILURES = 10
# Versions of a dataset that are looked through for the transaction of a run.
_VERSIONS = 100


class ShardsFailed(RuntimeError):
    """Shards that failed at every attempt. The others are kept, and the same call tries these again."""


def encode_corpus(
    corpus: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    model: str | os.PathLike | None = None,
    *,
    shards: int | None = None,
    add: bool = False,
    restart: bool = False,
    workers: Workers | None = None,
    dtype: str = "float16",
    batch_size: int = 32,
    show_progress: bool = False,
    **columns: Any,
) -> int:
    """
    Encode a corpus into a Lance dataset, on one machine or on a Ray cluster. Open it with [`open_index`].

    Each shard is a task that writes fragments of the dataset and returns their metadata. Only returned metadata is
    committed, once, at the end. So every document is in the dataset exactly once, whatever was killed and repeated in
    between; at most some unused files are left, which Lance's `cleanup_old_versions` deletes.

    The metadata of finished shards is kept in `OUTPUT.encoding`. If the run is stopped, the same call continues it.
    Only one process may make this call for an `output` at a time.

    Args:
        corpus (`str`, `os.PathLike` or sequence of these):
            Files or patterns such as `"corpus/*.jsonl.gz"`, in any format of [`read_documents`]. All machines must see
            them under the same path.
        output (`str` or `os.PathLike`):
            Folder or URI of the dataset, such as `"s3://bucket/english"`. Lance reads credentials from the environment
            of each machine (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ... or the machine's role).
        model (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of the base, or of a pack on it. Defaults to all-MiniLM-L6-v2.
        shards (`int`, *optional*): Number of shards. By default, a shard has 10,000 documents.
        add (`bool`, defaults to `False`): Whether to add the documents to a dataset that exists.
        restart (`bool`, defaults to `False`): Whether to forget an unfinished run and start from the beginning.
        workers ([`Workers`], *optional*): Where tasks run. Defaults to processes of this machine.
        dtype (`str`, defaults to `"float16"`): Data type of the stored vectors, `"float16"` or `"float32"`.
        batch_size (`int`, defaults to 32): Documents per batch.
        show_progress (`bool`, defaults to `False`): Whether to show progress bars.
        columns (`str`): `id_column`, `text_column` and `title_column`, as in [`read_documents`].

    Returns:
        `int`: Number of documents that were added.

    Raises:
        DataError: If a file is missing or damaged, or two documents have the same id. Nothing has been encoded then.
        FileExistsError: If there is a dataset, without `add`, or an index of another engine.
        ValueError: If an unfinished run had other arguments, or another base encoded the dataset.
        ShardsFailed: If shards failed at every attempt. The message names their files and lines.
        OSError: If the storage cannot be reached, refuses the credentials or is full.
    """
    if shards is not None:
        check_number("shards", shards, at_least=1)
    check_choice("dtype", dtype, LanceIndex.dtypes)
    check_number("batch_size", batch_size, at_least=1)
    import_optional("lance", "lance")
    uri = dataset_uri(os.fspath(output))
    if not add:
        check_engine(uri, LanceIndex)
    name = None if model is None else os.path.abspath(model) if os.path.isdir(model) else os.fspath(model)
    retriever = open_retriever([name] if name else [])
    files = [CorpusFile(path, os.path.getsize(path), 0) for path in find_files(corpus)]
    wanted = EncodingPlan(files, IndexSettings.of(retriever, dtype), Columns(**columns), shards, add)
    records = RunRecords(uri)
    with closing((workers or Workers()).pool()) as pool:
        plan = records.plan()
        if plan is not None and restart:
            records.clear(plan.run)
            plan = None
        if plan is None:
            plan = complete_plan(wanted, pool, _existing(uri, wanted), show_progress)
            records.write_plan(plan)
        wanted.check_continues(plan, records.uri)
        # The driver may have been killed between the commit and the end.
        if not _is_committed(uri, plan):
            job = ShardJob(
                uri, name, plan.settings, plan.schema, plan.columns, "append" if add else "create", batch_size
            )
            _commit(uri, plan, _encode_missing(plan, job, records, pool, show_progress))
        records.clear(plan.run)
    return plan.rows


def _existing(uri: str, plan: EncodingPlan) -> lance.LanceDataset | None:
    """The dataset to add documents to, if they are to be added to one."""
    try:
        dataset = open_dataset(uri)
    except FileNotFoundError:
        if plan.add:
            raise
        return None
    if not plan.add:
        raise FileExistsError(f"{uri} already holds a dataset; add to it, or choose another output")
    settings = read_settings(dataset.schema, uri)
    if settings.dtype != plan.settings.dtype:
        raise ValueError(f"dtype must be that of the index in {uri}, {settings.dtype!r}, got {plan.settings.dtype!r}")
    if settings.base_fingerprint != plan.settings.base_fingerprint:
        raise ValueError(
            f"model must be the base of the index in {uri}, {settings.base_model} (fingerprint "
            f"{settings.base_fingerprint[:12]}), got fingerprint {plan.settings.base_fingerprint[:12]}"
        )
    return dataset


def _encode_missing(
    plan: EncodingPlan, job: ShardJob, records: RunRecords, pool: Pool, show_progress: bool
) -> list[dict[str, Any]]:
    """
    Encode the shards that have no record.

    Returns:
        The metadata of the fragments of all shards, in the order of the documents.
    """
    shards = plan.pieces()
    done = records.shards(plan.run)
    missing = [number for number in range(len(shards)) if number not in done]
    failures: list[str] = []
    tokens = sum(record["tokens"] for record in done.values())
    with tqdm(
        desc="Encoding",
        total=plan.rows,
        initial=sum(record["rows"] for record in done.values()),
        unit="passage",
        disable=not show_progress,
    ) as progress:
        for position, result in pool.run(encode_shard, job, [shards[number] for number in missing], gpu=True):
            number = missing[position]
            if isinstance(result, TaskFailure):
                failures.append(f"shard {number}, {_place(shards[number])}: {result}")
                progress.write(f"failed: {failures[-1]}") if show_progress else None
                if len(failures) == _MOST_FAILURES:
                    break
                continue
            records.write_shard(plan.run, number, result)
            done[number] = result
            tokens += result["tokens"]
            progress.set_postfix_str(f"{tokens:,} tokens, {len(shards) - len(done)} shards left", refresh=False)
            progress.update(result["rows"])
    if failures:
        listed = "\n  ".join(failures)
        raise ShardsFailed(
            f"{len(failures)} of {len(shards)} shards failed at every attempt. Finished shards are kept, and the same "
            f"call tries the others again.\n  {listed}"
        )
    return [fragment for number in sorted(done) for fragment in done[number]["fragments"]]


def _place(shard: Sequence[Piece]) -> str:
    """The files of a shard and their rows."""
    listed = [f"{piece.path}, rows {piece.start} to {piece.stop - 1}" for piece in shard[:3]]
    return " and ".join([*listed, *(["others"] if len(shard) > 3 else [])])


def _is_committed(uri: str, plan: EncodingPlan) -> bool:
    try:
        dataset = open_dataset(uri)
    except FileNotFoundError:
        return False
    with readable_errors(uri):
        return any(each is not None and each.uuid == plan.run for each in dataset.get_transactions(_VERSIONS))


def _commit(uri: str, plan: EncodingPlan, fragments: Iterable[dict[str, Any]]) -> None:
    """Make all rows visible at once, in a transaction that has the id of the run."""
    from lance import LanceDataset, LanceOperation
    from lance.dataset import Transaction
    from lance.fragment import FragmentMetadata

    metadata = [FragmentMetadata.from_json(json.dumps(each)) for each in fragments]
    operation = LanceOperation.Append(metadata) if plan.add else LanceOperation.Overwrite(plan.schema, metadata)
    with readable_errors(uri):
        LanceDataset.commit(uri, Transaction(plan.version, operation, uuid=plan.run))
