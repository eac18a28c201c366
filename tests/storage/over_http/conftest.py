"""A local Hub at the URL that the client read when it was imported."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from storage.local_hub import LocalHub


@pytest.fixture(scope="session")
def server() -> Iterator[LocalHub]:
    with LocalHub(int(os.environ["HF_ENDPOINT"].rsplit(":", 1)[1])) as server:
        assert constants.ENDPOINT == server.url
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def hub(server, tmp_path, monkeypatch) -> Iterator[LocalHub]:
    """An empty Hub with a user who is logged in, and an empty cache."""
    server.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # The client waits for seconds before a retry; tests need not wait.
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    yield server
    assert server.unknown == []
