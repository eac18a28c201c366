"""Requests that arrive together are encoded and searched together, in one thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import error_summary
from ..index import Index
from ..retrieval import Hit, OpticalRetriever
from .limits import Limits
from .metrics import Metrics


class Overloaded(RuntimeError):
    """Too many questions wait already."""


class Stopped(RuntimeError):
    """The batcher takes no more requests."""


class Refused(ValueError):
    """A search asks for a pack that is not open, or has an invalid condition."""


@dataclass(eq=False)
class Search:
    """Questions of one request, each with the code of its language. `answer` gets a ranking for each."""

    questions: Sequence[str]
    languages: Sequence[str]
    top_k: int
    where: str | None = None
    answer: Future[list[list[Hit]]] = field(default_factory=Future)
    vectors: dict[int, Tensor] = field(default_factory=dict)


class Batcher:
    """
    A queue of searches and the thread that answers them.

    A batch is whatever waits when the thread becomes free. So a lone request never waits for others, and batches grow
    with the load. Questions in one language share a forward pass of the model.
    """

    def __init__(self, retriever: OpticalRetriever, index: Index, limits: Limits, metrics: Metrics):
        self.retriever, self.index, self.limits, self.metrics = retriever, index, limits, metrics
        self.waiting = 0
        self._queue: deque[Search] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hf_optical-batches", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def submit(self, search: Search) -> Future[list[list[Hit]]]:
        """
        Queue a search.

        Raises:
            Overloaded: If too many questions wait.
            Stopped: If the batcher was closed.
        """
        with self._changed:
            if self._stopping:
                raise Stopped("the service is stopping")
            if self.waiting + len(search.questions) > self.limits.max_waiting:
                raise Overloaded(f"{self.waiting} questions are waiting already; try again later")
            self._queue.append(search)
            self.waiting += len(search.questions)
            self._changed.notify()
        return search.answer

    def close(self) -> None:
        """Answer what is queued, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while waiting := self._take():
            # Cancelled by a client that has gone, or by a server that stops without patience.
            batch = [each for each in waiting if each.answer.set_running_or_notify_cancel()]
            try:
                self._encode(batch)
                self._search([each for each in batch if not each.answer.done()])
            except Exception as error:  # the thread must outlive any error
                _fail(batch, error)

    def _take(self) -> list[Search]:
        """Wait for searches and take as many as fit into a batch. Empty when the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            batch: list[Search] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0].questions) <= self.limits.batch_size):
                batch.append(self._queue.popleft())
                size += len(batch[-1].questions)
            self.waiting -= size
            return batch

    def _encode(self, batch: Sequence[Search]) -> None:
        """Encode the questions of a batch, language by language. An error fails the searches in that language."""
        places: dict[str, list[tuple[Search, int]]] = {}
        for search in batch:
            for position, language in enumerate(search.languages):
                places.setdefault(language, []).append((search, position))
        self.metrics.batch_questions.observe(sum(map(len, places.values())))
        for language, own in places.items():
            try:
                with self.metrics.stage_seconds.labels("encode").time():
                    vectors = self._vectors([search.questions[position] for search, position in own], language)
            except Exception as error:
                _fail((search for search, _ in own), error)
                continue
            self.metrics.questions.labels(language).inc(len(own))
            for (search, position), tensor in zip(own, vectors, strict=True):
                search.vectors[position] = tensor

    def _vectors(self, questions: list[str], language: str) -> list[Tensor]:
        try:
            return self.retriever.encode_queries(questions, language=language, batch_size=self.limits.batch_size)
        except KeyError:
            # A pack that was replaced in the middle is open again.
            if language not in self.retriever.languages:
                raise
            return self.retriever.encode_queries(questions, language=language, batch_size=self.limits.batch_size)

    def _search(self, batch: Sequence[Search]) -> None:
        """Search all questions with the same filter at once, for the longest ranking that one of them asks for."""
        filters: dict[str | None, list[Search]] = {}
        for search in batch:
            filters.setdefault(search.where, []).append(search)
        for where, own in filters.items():
            queries = [search.vectors[i] for search in own for i in range(len(search.questions))]
            try:
                with self.metrics.stage_seconds.labels("search").time():
                    rankings = iter(self.index.search(queries, max(search.top_k for search in own), where=where))
            except Exception as error:
                _fail(own, error)
                continue
            for search in own:
                search.answer.set_result([next(rankings)[: search.top_k] for _ in search.questions])


def message_of(error: Exception) -> str:
    """The message of an error in one line, without the quotes of a `KeyError`."""
    return error_summary(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _fail(searches: Iterable[Search], error: Exception) -> None:
    if isinstance(error, (KeyError, ValueError)):
        # The traceback refers to the searches and to the processor of a closed pack. In an answer it would be part of
        # a cycle, so that many megabytes per pack would stay until Python looks for cycles, which it rarely does.
        error = Refused(message_of(error))
    for search in searches:
        if not search.answer.done():
            search.answer.set_exception(error)
