"""
Load test of `hf-optical serve` on loopback: clients that ask all the time while a pack is closed and opened.

Every answer is compared with a direct search. The service runs in a process of its own, whose memory is watched.

    python benchmarks/serving.py --index outputs/index --pack outputs/ha outputs/sw \\
        --queries questions/ha/queries.jsonl questions/sw/queries.jsonl --seconds 600 --output outputs/serving.json

The last pack is the one that comes and goes. Ends with exit code 1 if an answer is wrong or missing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from harness import machine, table
from tqdm.auto import tqdm

from hf_optical.index import open_index, read_documents
from hf_optical.retrieval import Hit, open_retriever
from hf_optical.retrieval.processors import learn_for_search


TOKEN = "load test"
# Texts in batches of another size have vectors that differ in the last bits.
TOLERANCE = 1e-3


@dataclass
class Seen:
    """What the clients of a run saw."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


class Service:
    """`hf-optical serve` in a process of its own."""

    def __init__(self, index: str, packs: list[str]):
        command = [sys.executable, "-m", "hf_optical", "serve", "--port", "0", "--index", index, "--pack", *packs]
        environment = {**os.environ, "HF_OPTICAL_SERVE_TOKEN": TOKEN}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        lines = iter(self.process.stderr.readline, "")
        self.port = next((int(found[1]) for line in lines if (found := re.search(r"127.0.0.1:(\d+)", line))), 0)
        if not self.port:
            sys.exit("the service did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def memory(self) -> float:
        """Resident memory in MB, without mapped files."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    return answer.status, json.loads(text) if "json" in answer.headers["content-type"] else text


def wrong(hits: list[dict], expected: list[Hit]) -> bool:
    """Whether an answer differs from a direct search by more than rounding."""
    if len(hits) != len(expected):
        return True
    scores = {hit.document: hit.score for hit in expected}
    return any(
        abs(hit["score"] - best.score) > TOLERANCE
        # A document at the end may have changed places with one that is as good.
        or abs(scores.get(hit["id"], expected[-1].score) - hit["score"]) > TOLERANCE
        for hit, best in zip(hits, expected, strict=True)
    )


def run(service: Service, expected: dict[tuple[str, str], list[Hit]], pack: str, language: str, args) -> Seen:
    seen, end = Seen(), time.monotonic() + args.seconds
    asked = list(expected)

    def client(number: int) -> None:
        choose, connection = random.Random(number), service.connect()
        while time.monotonic() < end and len(seen.seconds) < args.max_requests:
            keys = choose.choices(asked, k=args.questions)
            questions = [{"text": text, "language": code} for text, code in keys]
            start = time.perf_counter()
            try:
                status, answer = ask(connection, "POST", "/search", {"questions": questions, "top_k": args.top_k})
            except (OSError, http.client.HTTPException) as error:
                seen.outcomes["lost"] += 1
                seen.problems.append(repr(error))
                connection = service.connect()
                continue
            seen.seconds.append(time.perf_counter() - start)
            if status == 200:
                results = answer["results"]
                failed = [key for key, own in zip(keys, results, strict=True) if wrong(own["hits"], expected[key])]
                seen.outcomes["wrong" if failed else "right"] += 1
                seen.problems += [f"wrong: {key}" for key in failed]
            elif status == 422 and language in {code for _, code in keys} and "pack for" in answer["detail"]:
                seen.outcomes["refused, pack closed"] += 1
            else:
                seen.outcomes["lost"] += 1
                seen.problems.append(f"{status} {answer}")

    def changer() -> None:
        while time.monotonic() < end - 1:
            time.sleep(args.change_every)
            connection = service.connect()  # the service closes one that was idle for seconds
            assert ask(connection, "DELETE", f"/packs/{language}")[0] == 200
            start = time.perf_counter()
            status, answer = ask(connection, "POST", "/packs", {"pack": pack})
            assert status == 201, answer
            seen.changes.append(time.perf_counter() - start)

    def watcher() -> None:
        with tqdm(total=args.seconds, desc="Serving", unit="s") as progress:
            while time.monotonic() < end and len(seen.seconds) < args.max_requests:
                seen.memory.append(service.memory())
                time.sleep(1)
                progress.update(1)

    with ThreadPoolExecutor(args.clients + 2) as threads:
        running = [threads.submit(changer), threads.submit(watcher)]
        running += [threads.submit(client, number) for number in range(args.clients)]
        for each in running:
            each.result()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, help="index, as in hf_optical.index.open_index")
    parser.add_argument("--pack", nargs="+", required=True, help="folders of packs")
    parser.add_argument("--queries", nargs="+", required=True, help="a file of questions for each pack")
    parser.add_argument("--distinct", type=int, default=50, help="distinct questions per language (default: 50)")
    parser.add_argument("--clients", type=int, default=16, help="clients at once (default: 16)")
    parser.add_argument("--questions", type=int, default=1, help="questions per request (default: 1)")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=600, help="length of the run (default: 600)")
    parser.add_argument("--max_requests", type=int, default=1_000_000, help="ends the run (default: 1,000,000)")
    parser.add_argument("--change_every", type=float, default=5, help="seconds between changes of packs (default: 5)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    with open_index(args.index) as index:
        retriever = open_retriever(args.pack)
        # As the service does.
        learn_for_search(retriever, index.word_counts())
        expected = {}
        for language, file in zip(retriever.languages, args.queries, strict=True):
            texts = [each.text for each in read_documents(file)][: args.distinct]
            for code in (language, "base"):
                chosen = texts if code == language else texts[: args.distinct // len(args.pack)]
                found = retriever.search(chosen, index, args.top_k, language=code)
                expected |= {(text, code): hits for text, hits in zip(chosen, found, strict=True)}
        documents, language = len(index), retriever.languages[-1]
    del retriever

    service = Service(args.index, args.pack)
    try:
        connection = service.connect()
        # Models and files are read on first use.
        for text, code in list(expected)[:: max(1, len(expected) // 20)]:
            ask(connection, "POST", "/search", {"questions": [{"text": text, "language": code}]})
        started = time.perf_counter()
        seen = run(service, expected, args.pack[-1], language, args)
        seconds = time.perf_counter() - started
        metrics = ask(service.connect(), "GET", "/metrics")[1]
        code = service.stop()
    finally:
        service.process.kill()
    sums = {
        name: float(value) for name, value in re.findall(r"^(hf_optical_batch_questions_\w+) (\S+)$", metrics, re.M)
    }
    p50, p99 = numpy.percentile(seen.seconds, [50, 99]) * 1000
    results = {
        "documents": documents,
        "clients": args.clients,
        "requests": len(seen.seconds),
        "requests a second": len(seen.seconds) / seconds,
        "p50, ms": p50,
        "p99, ms": p99,
        "longest, ms": max(seen.seconds) * 1000,
        "questions a batch": sums["hf_optical_batch_questions_sum"] / sums["hf_optical_batch_questions_count"],
        "packs opened meanwhile": len(seen.changes),
        "to open a pack, ms": numpy.median(seen.changes) * 1000 if seen.changes else None,
        "memory at first, MB": seen.memory[0],
        "memory at most, MB": max(seen.memory),
        "memory at last, MB": seen.memory[-1],
        **{name: seen.outcomes[name] for name in ("right", "wrong", "lost", "refused, pack closed")},
        "exit code when stopped": code,
    }
    print(table(["", "value"], [[name, value] for name, value in results.items()]))
    for problem in seen.problems[:10]:
        print(problem)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        # Memory is watched every second.
        content = {"machine": machine(), "seconds": seconds, **results, "memory each half minute": seen.memory[::30]}
        content["problems"] = seen.problems[:100]
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(seen.outcomes["wrong"] or seen.outcomes["lost"]))


if __name__ == "__main__":
    main()
