"""Encoding on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from encoding_runs import ids_of, kill, records, start, wait_for, write_corpus


ray = pytest.importorskip("ray")
pytest.importorskip("lance")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
ALL = [f"{letter}{i}" for letter in "abc" for i in range(200)]


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
    worker = cluster.add_node(**cluster.options)
    files = write_corpus(tmp_path / "corpus", sizes=(200, 200, 200))
    options = ["--corpus", *files, "--output", tmp_path / "out", "--shards", 300, "--model", tiny]
    options += ["--ray", cluster.address]
    driver = start(*options)
    wait_for(lambda: len(records(tmp_path)) >= 3, driver)
    cluster.remove_node(worker, allow_graceful=False)
    before = len(records(tmp_path))
    wait_for(lambda: len(records(tmp_path)) >= before + 3, driver)
    kill(driver)
    assert not (tmp_path / "out" / "_versions").exists()
    cluster.add_node(**cluster.options)
    driver = start(*options)
    assert driver.wait(300) == 0, driver.communicate()[1]
    assert sorted(ids_of(tmp_path / "out")) == sorted(ALL)
    driver.communicate()
