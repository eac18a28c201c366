from __future__ import annotations

import os
from collections.abc import Sequence

import uvicorn

from ..index import open_index
from ..retrieval.opening import open_for_index
from ..retrieval.processors import learn_for_search
from .app import create_app
from .limits import Limits


def serve(
    index: str | os.PathLike,
    packs: Sequence[str | os.PathLike] = (),
    *,
    base_model: str | os.PathLike | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    token: str | None = None,
    patience: int = 30,
) -> None:
    """
    Serve an index over HTTP until the process is told to stop. Requests that are being answered then end first.

    Args:
        index (`str` or `os.PathLike`): The index, as in [`~index.open_index`].
        packs (sequence of `str` or `os.PathLike`): Folders or Hub ids of packs. Without any, the base is opened.
        base_model (`str` or `os.PathLike`, *optional*): Folder or Hub id of the base, if it has been moved.
        host (`str`, defaults to `"127.0.0.1"`), port (`int`, defaults to 8000):
            Address to listen on. `"0.0.0.0"` is all addresses of the machine. Port 0 is any free one.
        limits ([`Limits`], *optional*), token (`str`, *optional*): As in [`create_app`].
        patience (`int`, defaults to 30): Seconds that a stop waits for requests that are being answered.

    Raises:
        OSError: If the index, a pack or the base is not found.
        ValueError: If the packs and the index have different bases.
    """
    with open_index(index) as opened:
        retriever = open_for_index(opened.settings.base_model, packs, base_model)
        if counts := opened.word_counts():
            learn_for_search(retriever, counts)
        app = create_app(retriever, opened, limits=limits, token=token)
        # Every request is counted in /metrics.
        uvicorn.run(app, host=host, port=port, ws="none", access_log=False, timeout_graceful_shutdown=patience)
