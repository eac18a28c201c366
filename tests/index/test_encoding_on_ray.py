"""Encoding on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from encoding_runs import corpus_ids, finished_shards, ids_of, kill, start_command, wait_for, write_corpus

from hf_optical import OpticalRetriever
from hf_optical.index.batch_search import BatchSearch
from hf_optical.index.encoding_run import encode_corpus
from hf_optical.index.lance_rows import open_dataset, read_vectors
from hf_optical.index.tasks import Workers
from hf_optical.retrieval import search


# Ray would replace 127.0.0.1 by another address of this machine, on which the cluster does not listen. Read at import.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray = pytest.importorskip("ray")
pytest.importorskip("lance")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def cluster(monkeypatch) -> Iterator:
    from ray.cluster_utils import Cluster

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    options = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1", "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    cluster.options = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 10**8}
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.promise(
    "Stopping anywhere", "On a Ray cluster, every passage is encoded once though a node and the driver are killed."
)
def test_nodes_and_drivers_may_be_killed(cluster, tiny, tmp_path):
    output, sizes = tmp_path / "out", (200, 200, 200)
    worker = cluster.add_node(**cluster.options)
    options = ["--corpus", *write_corpus(tmp_path / "corpus", sizes), "--output", output, "--model", tiny]
    options += ["--shards", 300, "--ray", cluster.address]
    driver = start_command(*options)
    wait_for(lambda: finished_shards(output) >= 3, lambda: driver.poll() is None)
    cluster.remove_node(worker, allow_graceful=False)
    before = finished_shards(output)
    wait_for(lambda: finished_shards(output) >= before + 3, lambda: driver.poll() is None)
    kill(driver)
    assert not (output / "_versions").exists()
    cluster.add_node(**cluster.options)
    driver = start_command(*options)
    assert driver.wait(300) == 0, kill(driver)
    driver.communicate()
    assert ids_of(output) == corpus_ids(sizes)


def test_batch_search_on_ray_equals_exact_search(cluster, tiny, tmp_path):
    cluster.add_node(**cluster.options)
    output, sizes = tmp_path / "out", (40, 1, 30)
    encode_corpus(write_corpus(tmp_path / "corpus", sizes), output, tiny, shards=5, workers=Workers(processes=1))
    vectors = read_vectors(open_dataset(str(output)).to_table(columns=["vectors"])["vectors"])
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    queries = ["water in a", "rain 3"]
    expected = search(retriever.encode_queries(queries), vectors, 9, document_ids=corpus_ids(sizes))
    try:
        assert retriever.search(queries, BatchSearch(output, Workers(ray=cluster.address)), 9) == expected
    finally:
        ray.shutdown()
