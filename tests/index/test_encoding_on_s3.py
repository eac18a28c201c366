"""Encoding into a dataset on an S3 server, with everything killed that can be."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from encoding_runs import corpus_ids, finished_shards, ids_of, kill, start_command, start_run, wait_for, write_corpus
from s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

from hf_optical.index.encoding_run import ShardsFailed, encode_corpus
from hf_optical.index.lance_rows import open_dataset
from hf_optical.index.tasks import Workers


pytest.importorskip("lance")
# pyarrow's S3 client leaves its threads to the end of the process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ONE = Workers(processes=1)
SIZES = (400, 1, 399)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def uri(server, monkeypatch, request) -> str:
    """A dataset that is not there yet."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{abs(hash(request.node.name))}"


@pytest.mark.promise("Stopping anywhere", "After ten kills of an encoding run on S3, every passage is there once.")
def test_ten_kills_leave_every_passage_once(uri, tiny, tmp_path):
    arguments = (write_corpus(tmp_path / "corpus", SIZES), uri, tiny)
    drawn = random.Random(0)
    bounds = sorted(drawn.sample(range(1, 195), 9))
    for bound in bounds:
        run = start_run(*arguments, shards=200)
        wait_for(lambda bound=bound: finished_shards(uri) >= bound, run.is_alive)
        time.sleep(drawn.uniform(0, 0.1))
        run.kill()
        run.join()
    run = start_run(*arguments, shards=200, killed_at="after commit")
    run.join(300)
    assert run.exitcode == -9
    encode_corpus(*arguments, shards=200, workers=ONE)
    assert ids_of(uri) == corpus_ids(SIZES)
    assert len(open_dataset(uri).get_fragments()) == 200


def test_killed_workers_are_replaced(uri, tiny, tmp_path):
    files = write_corpus(tmp_path / "corpus", SIZES)
    result: list[int] = []
    options = {"shards": 40, "workers": Workers(processes=2, attempts=5)}
    run = threading.Thread(target=lambda: result.append(encode_corpus(files, uri, tiny, **options)), daemon=True)
    run.start()
    killed: set[int] = set()
    for bound in (2, 9, 16):
        wait_for(lambda bound=bound: finished_shards(uri) >= bound, run.is_alive)
        victim = next(each for each in multiprocessing.active_children() if each.pid not in killed)
        killed.add(victim.pid)
        victim.kill()
    run.join(600)
    assert result == [800] and ids_of(uri) == corpus_ids(SIZES) and len(killed) == 3


def test_cut_connection_ends_the_run_which_can_be_continued(server, uri, tiny, tmp_path):
    arguments = ["--corpus", *write_corpus(tmp_path / "corpus", SIZES), "--output", uri, "--model", tiny]
    arguments += ["--shards", 200, "--processes", 1]
    run = start_command(*arguments, OBJECT_STORE_CLIENT_MAX_RETRIES="1", OBJECT_STORE_CLIENT_RETRY_TIMEOUT="2")
    wait_for(lambda: finished_shards(uri) >= 5, lambda: run.poll() is None)
    server.stop()
    try:
        _, error = run.communicate(timeout=300)
    finally:
        server.start()
    assert run.returncode == 1 and "error: " in error and SECRET_KEY not in error
    assert 5 <= finished_shards(uri) < 200
    run = start_command(*arguments)
    assert run.wait(600) == 0, kill(run)
    run.communicate()
    assert ids_of(uri) == corpus_ids(SIZES)


@pytest.mark.promise("Safety", "Keys of object storage are in no message.")
@pytest.mark.parametrize(
    ("place", "environment", "message"),
    [
        (
            f"s3://{BUCKET}/new",
            {"AWS_SECRET_ACCESS_KEY": "wrong-secret/key+of-forty-characters-111"},
            "check AWS_ACCESS_KEY_ID",
        ),
        (f"s3://{BUCKET}/new", {"AWS_ACCESS_KEY_ID": "WRONGACCESSKEY123456"}, "check AWS_ACCESS_KEY_ID"),
        ("s3://nowhere/new", {}, "create the bucket"),
    ],
)
def test_refused_storage_is_reported_without_keys(uri, tiny, tmp_path, monkeypatch, place, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=message) as caught:
        encode_corpus(write_corpus(tmp_path / "corpus"), place, tiny, workers=ONE)
    shown = "".join(f"{each} {each!r}" for each in (caught.value, caught.value.__cause__, caught.value.__context__))
    for secret in (ACCESS_KEY, SECRET_KEY, *environment.values()):
        assert secret not in shown


def test_full_disk_ends_the_run_which_can_be_continued(tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        arguments = (write_corpus(tmp_path / "corpus", SIZES), disk / "out", tiny)
        with pytest.raises((OSError, ShardsFailed), match="(?i)no space left"):
            encode_corpus(*arguments, shards=100, workers=ONE)
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        encode_corpus(*arguments, shards=100, workers=ONE)
        assert ids_of(disk / "out") == corpus_ids(SIZES)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
