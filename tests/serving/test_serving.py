"""The service over real HTTP on loopback, compared with direct searches."""

from __future__ import annotations

import gc
import http.client
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from packs import WORDS, make_pack, retriever_with
from prometheus_client.parser import text_string_to_metric_families
from tiny import REPOSITORY, demo_pairs, tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.index import Index, create_index, open_index
from hf_optical.languages import LanguagePack
from hf_optical.model import OpticalProcessor
from hf_optical.serving import Limits, create_app, serve


LANGUAGES = ("ha", "yo", "sw")
TOKEN = "a secret"
QUESTIONS = [pair["sw"] for pair in demo_pairs("validation")[:8]] + ["mzuqo water", "kitxbu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """An index of the embedded sentences and packs of three languages."""
    folder = tmp_path_factory.mktemp("serving")
    for seed, language in enumerate(LANGUAGES):
        make_pack(tiny, language, seed, WORDS).save_pretrained(folder / language)
    rows = [{"_id": f"d{i}", "title": str(i), "text": pair["en"], "n": i} for i, pair in enumerate(demo_pairs()[:60])]
    with create_index(folder / "index", retriever_with(tiny, {}), rows) as index:
        index.add(["empty"], [torch.empty(0, index.settings.dim)])
    return folder


@pytest.fixture(scope="module")
def index(folder) -> Index:
    return open_index(folder / "index")


@pytest.fixture
def retriever(tiny, folder) -> OpticalRetriever:
    return retriever_with(tiny, {"ha": make_pack(tiny, "ha", 0, WORDS), "yo": make_pack(tiny, "yo", 1, WORDS)})


@contextmanager
def served(app) -> Iterator[Client]:
    """Run an app on a free port of the loopback address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="warning", timeout_graceful_shutdown=20))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


class Client:
    def __init__(self, port: int):
        self.port = port

    def ask(self, method: str, path: str, body: object = None, token: str | None = TOKEN):
        """Status and decoded answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if body is None or isinstance(body, (bytes, Iterator)) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, content, headers, encode_chunked=isinstance(body, Iterator))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text

    def search(self, questions, top_k=5, **fields):
        questions = [{"text": text, "language": language} for text, language in questions]
        return self.ask("POST", "/search", {"questions": questions, "top_k": top_k, **fields})


def pairs(result: dict) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in result["hits"]]


def assert_same(result: dict, hits) -> None:
    """Scores of texts in batches of another size differ in the last bits, so close ones may swap places."""
    found = pairs(result)
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-4)
    scores = {hit.document: hit.score for hit in hits}
    last = hits[-1].score
    assert all(scores.get(key, last) == pytest.approx(score, abs=1e-4) for key, score in found)


def test_answers_are_those_of_direct_searches(retriever, index):
    with served(create_app(retriever, index)) as client:
        questions = [(text, ("ha", "yo", "base", None)[i % 4]) for i, text in enumerate(QUESTIONS)]
        status, answer = client.search(questions)
        assert status == 200, answer
        assert len(answer["results"]) == len(questions)
        for (text, language), result in zip(questions, answer["results"], strict=True):
            # The active language, if a question names none.
            assert result["language"] == language or (language is None and result["language"] == "yo")
            assert_same(result, retriever.search(text, index, 5, language=result["language"]))
            for hit in result["hits"]:
                stored = index.document(hit["id"])
                assert (hit["title"], hit["text"], hit["columns"]) == (stored.title, stored.text, stored.columns)
        status, answer = client.search(questions[:1], top_k=100, documents=False)
        assert [set(hit) for hit in answer["results"][0]["hits"]][:2] == [{"id", "score"}] * 2
        # Conditions of requests in one batch do not mix.
        with ThreadPoolExecutor(8) as threads:
            conditions = [f"n < {limit}" for limit in (3, 5, 7, 9)] * 2
            asked = [threads.submit(client.search, questions[:2], 20, where=where) for where in conditions]
            for where, filtered in zip(conditions, asked, strict=True):
                direct = retriever.search(questions[0][0], index, 20, language="ha", where=where)
                assert len(direct) == int(where[4:])
                assert_same(filtered.result()[1]["results"][0], direct)
        # A document without tokens has no score.
        assert pairs(answer["results"][0])[-1] == ("empty", None) and len(pairs(answer["results"][0])) == 61


def test_requests_that_arrive_together_share_batches(retriever, index):
    with served(create_app(retriever, index, limits=Limits(batch_size=16))) as client:

        def one(number: int) -> None:
            text, language = QUESTIONS[number % 10], ("ha", "yo", "base")[number % 3]
            top_k = 1 + number % 7
            status, answer = client.search([(text, language)], top_k)
            assert status == 200 and len(pairs(answer["results"][0])) == top_k
            assert_same(answer["results"][0], retriever.search(text, index, top_k, language=language))

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(one, range(48)))
        families = {family.name: family for family in text_string_to_metric_families(client.ask("GET", "/metrics")[1])}
    samples = {
        (sample.name, *sample.labels.values()): sample.value for each in families.values() for sample in each.samples
    }
    assert samples["hf_optical_requests_total", "/search", "200"] == 48
    assert samples["hf_optical_batch_questions_sum",] == 48 > samples["hf_optical_batch_questions_count",]
    assert [samples["hf_optical_questions_total", code] for code in ("ha", "yo", "base")] == [16, 16, 16]
    assert samples["hf_optical_waiting_questions",] == 0 and samples["hf_optical_open_packs",] == 2
    assert samples["process_resident_memory_bytes",] > 0


@pytest.mark.promise(
    "Load and resources",
    "While packs are opened and closed in a running service, every answered question has the hits of a direct search, "
    "and questions in a language that is closed get an error with the reason.",
)
def test_packs_come_and_go_while_questions_are_answered(tiny, folder, retriever, index):
    everything = retriever_with(tiny, {code: make_pack(tiny, code, i, WORDS) for i, code in enumerate(LANGUAGES)})
    expected = {
        (text, code): everything.search(text, index, 5, language=code) for text in QUESTIONS for code in LANGUAGES
    }
    refused, done = [], threading.Event()
    with served(create_app(retriever, index, token=TOKEN)) as client:

        def ask(number: int) -> None:
            for turn in range(8):
                text, language = QUESTIONS[(number + turn) % 10], LANGUAGES[(number + turn) % 3]
                status, answer = client.search([(text, language)])
                if status == 200:
                    assert_same(answer["results"][0], expected[text, language])
                else:
                    assert (status, language) == (422, "sw"), answer
                    assert re.search("no pack for language 'sw' is open|'sw' was closed", answer["detail"])
                    refused.append(answer)

        def change() -> None:
            while not done.is_set():
                assert client.ask("POST", "/packs", {"pack": str(folder / "sw")})[0] == 201
                assert client.ask("GET", "/packs")[1]["languages"] == ["ha", "yo", "sw"]
                status, answer = client.ask("DELETE", "/packs/sw")
                assert (status, answer) == (200, {"languages": ["ha", "yo"]})

        with ThreadPoolExecutor(7) as threads:
            changing = threads.submit(change)
            try:
                list(threads.map(ask, range(6)))
            finally:
                done.set()
            changing.result()
        assert refused and client.ask("GET", "/health")[1] == {"status": "ok", "languages": ["ha", "yo"], "waiting": 0}


def test_refused_questions_keep_no_closed_pack_in_memory(retriever, index, monkeypatch):
    processor, encode = weakref.ref(retriever.processor_of("ha")), OpticalProcessor.encode_checked

    def close(*args):
        if "ha" in retriever.languages:
            retriever.remove_language("ha")
        return encode(*args)

    monkeypatch.setattr(OpticalProcessor, "encode_checked", close)
    gc.disable()  # Python seldom looks for reference cycles, so there must be none
    try:
        with served(create_app(retriever, index)) as client:
            status, answer = client.search([("water", "ha")])
            assert status == 422 and "no pack for language 'ha' is open" in answer["detail"]
            end = time.monotonic() + 10
            while processor() is not None and time.monotonic() < end:
                time.sleep(0.01)
            assert processor() is None
    finally:
        gc.enable()


def test_one_thread_opens_all_packs(client, monkeypatch):
    threads = []

    def open_slowly(*args, **kwargs):
        threads.append(threading.current_thread())
        time.sleep(0.1)
        raise FileNotFoundError("none")

    monkeypatch.setattr(LanguagePack, "from_pretrained", open_slowly)
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: client.ask("POST", "/packs", {"pack": "none"}), range(4)))
    assert answers == [(404, {"detail": "none"})] * 4
    assert len(threads) == 4 and len(set(threads)) == 1


def test_requests_beyond_the_limits_are_refused(client):
    for body, status, message in (
        ({"questions": []}, 422, "at least 1 item"),
        ({"questions": [{"text": "x"}] * 4}, 422, "at most 3 items"),
        ({"questions": [{"text": "x" * 101}]}, 422, "at most 100 characters"),
        ({"questions": [{"text": ""}]}, 422, "at least 1 character"),
        ({"questions": [{"text": "x"}], "top_k": 51}, 422, "less than or equal to 50"),
        ({"questions": [{"text": "x"}], "topk": 5}, 422, "Extra inputs"),
        ({"questions": [{"text": "x"}], "where": "n <"}, 422, "where must be a condition in SQL"),
        ({"questions": [{"text": "x", "language": "xx"}]}, 422, "no pack for language 'xx' is open (open: ha, yo)"),
        (b'{"questions": [{"text": "\\ud800"}]}', 422, "unicode"),
        (b"{", 422, "JSON"),
        (b" " * 2001, 413, "at most 2000 bytes"),
        ((b" " * 500 for _ in range(5)), 413, "at most 2000 bytes"),
    ):
        answer = client.ask("POST", "/search", body)
        assert answer[0] == status and message in json.dumps(answer[1])


@pytest.fixture(scope="module")
def client(tiny, index) -> Iterator[Client]:
    retriever = retriever_with(tiny, {"ha": make_pack(tiny, "ha", 0, WORDS), "yo": make_pack(tiny, "yo", 1, WORDS)})
    limits = Limits(max_bytes=2_000, max_questions=3, max_characters=100, max_top_k=50)
    with served(create_app(retriever, index, limits=limits, token=TOKEN)) as client:
        yield client


def test_packs_that_do_not_fit_are_refused(client, folder, tmp_path):
    tiny_checkpoint(tmp_path / "other", seed=7)
    make_pack(tmp_path / "other", "ig", 0).save_pretrained(tmp_path / "ig")
    for method, path, body, status, message in (
        ("POST", "/packs", {"pack": str(folder / "none")}, 404, "none"),
        ("POST", "/packs", {"pack": str(folder / "index")}, 404, "not a language pack"),
        ("POST", "/packs", {"pack": str(folder / "ha")}, 409, "has a pack for language 'ha' already"),
        ("POST", "/packs", {"pack": str(tmp_path / "ig")}, 409, "the base of the pack for 'ig' must be"),
        ("DELETE", "/packs/xx", None, 404, "'xx' is open"),
        ("DELETE", "/packs/base", None, 404, "'base' is open"),
    ):
        answer = client.ask(method, path, body)
        assert answer[0] == status and message in answer[1]["detail"], answer
        assert client.ask(method, path, body, token="another")[0] == 401
        assert client.ask(method, path, body, token=None)[0] == 401
    assert client.ask("GET", "/packs")[1] == {"languages": ["ha", "yo"]}


def test_packs_stay_as_they_are_without_a_token(retriever, index, folder):
    with served(create_app(retriever, index)) as client:
        for token in (None, "None", ""):
            assert client.ask("POST", "/packs", {"pack": str(folder / "sw")}, token=token)[0] == 403
            assert client.ask("DELETE", "/packs/ha", token=token)[0] == 403
        assert client.ask("GET", "/packs")[1] == {"languages": ["ha", "yo"]}


def test_example_is_the_service(folder, monkeypatch):
    monkeypatch.setenv("INDEX", str(folder / "index"))
    monkeypatch.setenv("PACKS", f"{folder}/sw {folder}/ha")
    with served(runpy.run_path(str(REPOSITORY / "examples" / "serve" / "app.py"))["app"]) as client:
        assert client.search([("water", "ha"), ("water", None)], 3)[1]["results"][1]["language"] == "sw"


@pytest.mark.promise(
    "Load and resources", "A service with too much to do refuses further requests at once and answers the others."
)
def test_full_queue_refuses_requests(retriever, index):
    encode, free = retriever.encode_queries, threading.Event()

    def slow(*args, **kwargs):
        assert free.wait(60)
        return encode(*args, **kwargs)

    retriever.encode_queries = slow
    limits = Limits(max_questions=2, max_waiting=4, batch_size=2)
    with served(create_app(retriever, index, limits=limits)) as client, ThreadPoolExecutor(8) as threads:
        try:
            asked = [threads.submit(client.search, [("water", "ha"), ("market", "yo")]) for _ in range(3)]
            while client.ask("GET", "/health")[1]["waiting"] < 4:  # one is being answered, two wait
                time.sleep(0.01)
            status, answer = client.search([("water", "ha")])
            assert status == 503 and "4 questions are waiting already" in answer["detail"]
        finally:
            free.set()
        assert [each.result()[0] for each in asked] == [200] * 3


def test_index_of_another_base_is_refused(index, tmp_path):
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(ValueError, match="must be encoded on the base of the index"):
        create_app(other, index)


def test_base_may_be_named_without_a_pack(folder, tiny, monkeypatch):
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: None)
    serve(folder / "index", base_model=tiny)


@pytest.mark.promise("Load and resources", "On a stop signal, a service answers the requests it has accepted.")
def test_stopping_answers_what_was_accepted(folder, index):
    """`hf-optical serve` in a process of its own."""
    command = [sys.executable, "-m", "hf_optical", "serve", "--index", f"{folder}/index", "--pack", f"{folder}/sw"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "HF_OPTICAL_SERVE_TOKEN": TOKEN}
    service = subprocess.Popen(
        [*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    )
    try:
        lines = iter(service.stderr.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"http://127.0.0.1:(\d+)", line)))
        client = Client(port)
        assert client.ask("GET", "/health") == (200, {"status": "ok", "languages": ["sw"], "waiting": 0})
        assert client.ask("POST", "/packs", {"pack": str(folder / "ha")})[0] == 201
        many = [(text, ("sw", "ha")[i % 2]) for i, text in enumerate(QUESTIONS * 6)]
        with ThreadPoolExecutor(6) as threads:
            asked = [threads.submit(client.search, many, 60) for _ in range(6)]
            time.sleep(0.3)
            service.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
        assert [status for status, _ in answers] == [200] * 6
        assert all(len(result["hits"]) == 60 for _, answer in answers for result in answer["results"])
        service.communicate(timeout=30)
        assert service.returncode == -signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            client.ask("GET", "/health")
    finally:
        service.kill()
        service.wait()
