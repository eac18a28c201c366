"""Threads that share a retriever or vectors get the same results as a single thread, bit for bit."""

from __future__ import annotations

import copy
import itertools
import pickle
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack, retriever_with, with_pack

from hf_optical import OpticalProcessor, OpticalRetriever
from hf_optical.index import create_index
from hf_optical.model import nearest_words
from hf_optical.retrieval import TokenVectors, search


THREADS = 8
LANGUAGES = ("ha", "yo", "sw", "base")


@pytest.fixture(scope="module")
def packs(tiny):
    """One pack adapts the word embeddings; two add words of their own under the same ids."""
    return {
        "ha": make_pack(tiny, "ha", 0),
        "yo": make_pack(tiny, "yo", 1, WORDS, query_length=7),
        "sw": make_pack(tiny, "sw", 2, WORDS[::-1]),
    }


@pytest.fixture(scope="module")
def alone(tiny, packs):
    """(language, role) -> vectors of the texts from a model with only that pack."""
    return {
        (language, role): with_pack(tiny, packs.get(language), TEXTS, role)
        for language in LANGUAGES
        for role in ("query", "document")
    }


@pytest.fixture
def retriever(tiny, packs):
    return retriever_with(tiny, packs)


@pytest.fixture(autouse=True)
def impatient():
    """Switch threads a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*actions: Callable[[], object]) -> list:
    """Start all actions at the same time in separate threads and return their results, or raise the first error."""
    barrier = threading.Barrier(len(actions))

    def start(action: Callable[[], object]) -> object:
        barrier.wait(60)
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return [each.result(120) for each in [threads.submit(start, action) for action in actions]]


@contextmanager
def interrupted(at: int, action: Callable[[], object]) -> Iterator[None]:
    """Before this thread encodes its `at`-th batch, run an action in another thread."""
    pad, thread, times = OpticalProcessor.pad, threading.get_ident(), itertools.count(1)

    def call(processor, *args):
        if threading.get_ident() == thread and next(times) == at:
            at_once(action)
        return pad(processor, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpticalProcessor, "pad", call)
        yield


def read(retriever, language, role):
    encode = retriever.encode_queries if role == "query" else retriever.encode_documents
    return encode(TEXTS, language=[language] * len(TEXTS))


@pytest.mark.promise(
    "Load and resources",
    "Eight threads can share one retriever while packs are added, removed and selected. Every result equals that of a "
    "single thread, bit for bit, and using a removed pack raises a `KeyError`.",
)
@pytest.mark.parametrize("rounds", [2, pytest.param(150, marks=pytest.mark.slow)])
def test_threads_encode_like_one_while_packs_change(retriever, packs, alone, rounds):
    done, answered, refused = threading.Event(), [], []

    def reader(number: int) -> None:
        for turn in range(rounds):
            language, role = LANGUAGES[(number + turn) % 4], ("query", "document")[(number // 4 + turn) % 2]
            try:
                found = read(retriever, language, role)
            except KeyError as error:
                # Only for the pack that is removed and added again.
                assert language == "sw" and ("'sw' is open" in str(error) or "'sw' was closed" in str(error)), error
                refused.append(error)
            else:
                assert_equal(found, alone[language, role])
                answered.append(language)

    def changer() -> None:
        while not done.is_set():
            for chosen in ("ha", "base"):
                retriever.set_language(chosen)
                # Not the language of a batch that another thread encodes.
                assert retriever.language == chosen
                retriever.remove_language("sw")
                retriever.add_language("sw", packs["sw"])
                assert retriever.language == chosen

    def readers() -> None:
        try:
            at_once(*(lambda number=number: reader(number) for number in range(THREADS)))
        finally:
            done.set()

    at_once(readers, changer)
    assert len(answered) + len(refused) == THREADS * rounds
    assert {"ha", "yo", "base"} <= set(answered)
    assert sorted(retriever.languages) == ["ha", "sw", "yo"]
    for language, role in alone:
        assert_equal(read(retriever, language, role), alone[language, role])


@pytest.mark.promise(
    "Load and resources",
    "A query waits for one batch of a corpus that is being encoded, not for the whole corpus.",
)
def test_query_does_not_wait_for_whole_corpus(retriever, alone):
    """A query is encoded between two batches of the corpus; otherwise this test would hang."""
    found = []
    with interrupted(4, lambda: found.append(read(retriever, "yo", "query"))):
        retriever.encode_documents(TEXTS * 4, batch_size=4)
    assert_equal(found[0], alone["yo", "query"])


@pytest.mark.promise(
    "Load and resources",
    "Removing a pack, or replacing it, while its texts are encoded raises an error instead of mixing two packs.",
)
def test_removing_pack_during_encoding_is_an_error(retriever, packs):
    language = "sw"

    def again() -> None:
        retriever.remove_language(language)
        retriever.add_language(language, packs[language])

    for action, message in (
        (lambda: retriever.remove_language(language), f"no pack for language '{language}' is open"),
        # The words of the one that is open now need not be those that the texts were cut into.
        (again, f"the pack for '{language}' was closed during encoding; encode the texts again"),
    ):
        with pytest.raises(KeyError, match=message), interrupted(4, action):
            retriever.encode_queries(TEXTS, language=language, batch_size=2)
        if language not in retriever.languages:
            retriever.add_language(language, packs[language])


@pytest.mark.promise("Load and resources", "A call reads all its texts in the language that was set when it began.")
def test_call_keeps_the_language_it_began_with(retriever, alone, packs):
    def change() -> None:
        retriever.set_language("yo")
        retriever.remove_language("sw")

    retriever.set_language("ha")
    with interrupted(4, change):
        found = retriever.encode_queries(TEXTS, batch_size=1)
    assert_equal(found, retriever.encode_queries(TEXTS, language="ha", batch_size=1))
    assert (retriever.language, retriever.languages) == ("yo", ["ha", "yo"])
    assert_equal(retriever.encode_queries(TEXTS), alone["yo", "query"])


@pytest.mark.promise("Load and resources", "Two retrievers can share a model.")
def test_two_retrievers_over_one_model(tiny, packs, alone):
    first = OpticalRetriever.from_pretrained(tiny, device="cpu")
    second = OpticalRetriever(first.model, first.processor)
    first.add_language("ha", packs["ha"])
    for _ in range(2):
        hausa, base = at_once(
            lambda: read(first, "ha", "query"),
            lambda: read(second, "base", "query"),
        )
        assert_equal(hausa, alone["ha", "query"])
        assert_equal(base, alone["base", "query"])


@pytest.mark.promise(
    "Load and resources",
    "Saving or merging while packs are added and removed gives complete, consistent results.",
)
def test_saving_while_packs_change_is_consistent(retriever, packs, alone, tmp_path):
    done = threading.Event()

    def changer() -> None:
        while not done.is_set():
            retriever.remove_language("sw")
            retriever.add_language("sw", packs["sw"])

    def saver() -> None:
        try:
            for _ in range(2):
                retriever.save_pretrained(tmp_path)
                opened = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
                assert opened.languages in (["ha", "yo", "sw"], ["ha", "yo"])
                for language in opened.languages:
                    assert_equal(read(opened, language, "query"), alone[language, "query"])
                assert_equal(read(retriever.merge("ha"), None, "query"), alone["ha", "query"], 1e-5)
        finally:
            done.set()

    at_once(saver, changer)


@pytest.mark.promise("Load and resources", "A retriever can be copied and pickled, and the copy is independent.")
def test_copy_is_independent_of_the_original(retriever, alone):
    others = [copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))]
    retriever.remove_language("yo")
    for other in others:
        for found in at_once(*[lambda other=other: read(other, "yo", "query")] * 2):
            assert_equal(found, alone["yo", "query"])
        assert other.language == "sw"


@pytest.mark.promise(
    "Load and resources",
    "A retriever whose model is in training mode encodes without dropout and leaves the model in training mode.",
)
def test_encoding_leaves_model_in_training_mode(retriever, alone):
    """Dropout is off while texts are encoded and on again afterwards."""
    retriever.model.train()
    assert_equal(read(retriever, "ha", "query"), alone["ha", "query"])
    assert all(module.training for module in retriever.model.modules())


@pytest.mark.promise(
    "Load and resources",
    "Threads can share a processor, whatever truncation and padding its tokenizer was saved with. Its cache of words "
    "stays bounded.",
)
def test_tokenizer_saved_with_truncation_and_padding_works_in_threads(tiny, tmp_path):
    """Changing these settings while another thread tokenizes raises `RuntimeError: Already borrowed`."""
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    processor = OpticalProcessor.from_pretrained(tiny)
    processor.tokenizer.backend_tokenizer.enable_truncation(6)
    processor.tokenizer.backend_tokenizer.enable_padding(length=6)
    processor.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = OpticalProcessor.from_pretrained(tiny).documents(TEXTS)
    processor = OpticalProcessor.from_pretrained(tmp_path)
    for found in at_once(*[lambda: [processor(TEXTS, role) for role in ("query", "document") * 10][-1]] * THREADS):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_threads_look_up_nearest_words(tiny, monkeypatch):
    monkeypatch.setattr(nearest_words, "_CACHE_SIZE", 3)  # so that it forgets all the time
    processor = OpticalProcessor(OpticalProcessor.from_pretrained(tiny).tokenizer, nearest_words=["mzuqoni", "kitxbu"])
    letters = "abcdefghij"
    texts = [" ".join(f"mzuqoni{first}{second} kitxbuq" for second in letters) for first in letters]
    expected = [processor.nearest_words(text) for text in texts]
    assert expected == [" ".join(["mzuqoni kitxbu"] * 10)] * 10
    for found in at_once(*[lambda: [processor.nearest_words(text) for text in texts]] * THREADS):
        assert found == expected
    # What is remembered stays bounded: several threads may add a word each before one forgets.
    assert len(processor.nearest_words._cache) <= 3 + THREADS


@pytest.mark.promise(
    "Load and resources",
    "Eight threads that search the same memory-mapped vectors find the same as one thread.",
)
def test_threads_search_shared_vectors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 40, (300,), generator=generator)
    vectors = TokenVectors(torch.randn(int(lengths.sum()), 32, generator=generator), lengths)
    vectors.save(tmp_path / "vectors.safetensors")
    queries = [vectors[number : number + 12] for number in range(0, 12 * THREADS, 12)]
    expected = [search(own, vectors, block_tokens=700) for own in queries]
    opened = TokenVectors.open(tmp_path / "vectors.safetensors")
    for _ in range(3):
        assert at_once(*(lambda own=own: search(own, opened, block_tokens=700) for own in queries)) == expected


@pytest.mark.promise(
    "Load and resources", "Eight threads that read the documents of an index read the same as one thread."
)
def test_threads_read_documents(tiny, tmp_path):
    rows = [{"_id": str(i), "text": "word " * (i % 50), "n": i} for i in range(600)]
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    index = create_index(tmp_path, retriever)
    index.add([row["_id"] for row in rows], [torch.ones(1, 32)] * len(rows), rows)
    chosen = [str(i) for i in range(0, 600, 97)]
    expected = [(each["_id"], each["n"]) for each in rows[::97]]
    for _ in range(3):
        for found in at_once(*[lambda: index.documents(chosen)] * THREADS):
            assert [(each.id, each.columns["n"]) for each in found] == expected


@pytest.mark.promise(
    "Load and resources",
    "Opening packs and vectors in threads does not change Python's warning filters.",
)
def test_opening_in_threads_keeps_warning_filters(tiny, packs, tmp_path):
    """`warnings.catch_warnings` is not thread-safe: two that overlap turn warnings off for good."""
    TokenVectors(torch.randn(30, 4), torch.tensor([10, 20])).save(tmp_path / "vectors.safetensors")
    retrievers = [OpticalRetriever.from_pretrained(tiny, device="cpu") for _ in range(THREADS)]

    def open_all(retriever: OpticalRetriever) -> None:
        for _ in range(10):
            assert len(TokenVectors.open(tmp_path / "vectors.safetensors")) == 2
        for language, pack in packs.items():
            retriever.add_language(language, pack)

    before = list(warnings.filters)
    try:
        at_once(*[partial(open_all, retriever) for retriever in retrievers])
        assert warnings.filters == before
    finally:
        warnings.filters[:] = before
