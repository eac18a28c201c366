"""Exact search of many queries in a Lance dataset, some fragments a task, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_number, check_shape
from ..model import OpticalModel
from ..retrieval import Hit, TokenVectors
from ..retrieval.vectors import as_token_vectors
from .lance_rows import VECTORS, dataset_uri, open_dataset, read_settings, read_vectors, readable_errors
from .recall import exact_hits
from .tasks import TaskFailure, Workers


# Documents whose vectors are in memory at a time.
_BLOCK = 1_000


class BatchSearch:
    """
    Exact search of many queries in a Lance dataset, with some fragments a task and merged rankings.

    It reads every vector once for all queries, so it suits the evaluation of a large corpus and not single questions.
    Rankings are those of a search in memory. Pass it to [`OpticalRetriever.search`] as an index.

    Args:
        uri (`str` or `os.PathLike`): Folder or URI of the dataset, which every machine can read.
        workers ([`Workers`], *optional*): Where tasks run. Defaults to processes of this machine.

    Raises:
        FileNotFoundError: If there is no dataset.
        OSError: If it cannot be read, or is not an index.

    Example:

    ```python
    >>> from hf_optical.index import BatchSearch, Workers

    >>> index = BatchSearch("s3://bucket/english", Workers(ray="auto"))
    >>> rankings = retriever.search(questions, index, top_k=100, language="ha")
    ```
    """

    def __init__(self, uri: str | os.PathLike, workers: Workers | None = None):
        self.uri = dataset_uri(os.fspath(uri))
        self.workers = workers or Workers()
        self._dataset = open_dataset(self.uri)
        self.settings = read_settings(self._dataset.schema, self.uri)

    def check_base(self, model: OpticalModel) -> None:
        """Raise `ValueError` unless the documents were encoded by `model`."""
        self.settings.check_base(model, self.uri)

    def search(
        self,
        query_vectors: TokenVectors | Sequence[Tensor] | Tensor,
        top_k: int = 10,
        *,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """
        Find the documents with the highest [`maxsim`] score.

        Args:
            query_vectors ([`TokenVectors`], sequence of `Tensor` of shape `(tokens, dim)`, or padded `Tensor`):
                The queries.
            top_k (`int`, defaults to 10): Length of the rankings.
            show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

        Returns:
            `list[list[Hit]]`: The hits `(document id, score)` of each query, best first.

        Raises:
            ValueError: If `top_k` is below 1, or the vectors have another dimension than those of the dataset.
            OSError: If a part of the dataset could not be searched at any attempt.
        """
        check_number("top_k", top_k, at_least=1)
        if len(query_vectors) == 0:
            return []
        queries = as_token_vectors(query_vectors, name="query_vectors").to(torch.float32)
        check_shape(
            "query_vectors", queries.values, ("tokens", self.settings.dim), "encode with the base of the index"
        )
        fragments = [fragment.fragment_id for fragment in self._dataset.get_fragments()]
        shared = _Job(self.uri, self._dataset.version, queries, top_k)
        parts: list[list[list[Hit]]] = [[] for _ in fragments]
        with closing(self.workers.pool()) as pool:
            found = pool.run(search_fragment, shared, fragments, gpu=True)
            for position, result in tqdm(
                found, "Searching", len(fragments), unit="fragment", disable=not show_progress
            ):
                if isinstance(result, TaskFailure):
                    raise OSError(f"fragment {fragments[position]} of {self.uri} cannot be searched: {result}")
                parts[position] = result
        return [_merge(own, top_k) for own in zip(*parts, strict=True)] or [[] for _ in range(len(queries))]


class _Job(NamedTuple):
    uri: str
    version: int
    queries: TokenVectors
    top_k: int


def search_fragment(job: _Job, fragment: int) -> list[list[Hit]]:
    """Rank the documents of a fragment."""
    dataset = open_dataset(job.uri).checkout_version(job.version)
    with readable_errors(job.uri):
        rows = dataset.get_fragment(fragment)
        assert rows is not None  # it was listed in this version
        batches = rows.to_batches(columns=["id", VECTORS], batch_size=_BLOCK)
        blocks = ((batch["id"].to_pylist(), read_vectors(batch[VECTORS])) for batch in batches)
        queries = job.queries.to("cuda" if torch.cuda.is_available() else "cpu")
        return exact_hits(blocks, queries, job.top_k)


def _merge(rankings: Sequence[list[Hit]], top_k: int) -> list[Hit]:
    """The sort is stable: equal scores stay in the order of the documents."""
    return sorted(chain.from_iterable(rankings), key=lambda hit: -hit.score)[:top_k]
