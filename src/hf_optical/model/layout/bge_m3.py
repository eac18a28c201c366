"""
The layout of BGE-M3 (arXiv 2402.03216): an encoder folder, with the projection of token vectors in a separate file.

The head of its sparse vectors is not used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...storage.names import BGE_M3_HEAD, BGE_M3_PICKLED_HEAD
from .base import Layout
from .encoder import read_encoder
from .projection import LinearLayer


def read_bge_m3(folder: Path) -> Layout | None:
    """Read a folder with the multi-vector head of BGE-M3; return `None` for any other."""
    if (folder / BGE_M3_HEAD).is_file():
        return replace(read_encoder(folder), projection=[LinearLayer(folder / BGE_M3_HEAD, bias=True, prefix="")])
    if (folder / BGE_M3_PICKLED_HEAD).is_file():
        raise OSError(
            f"{folder} has its multi-vector head in {BGE_M3_PICKLED_HEAD}. Pickled weights can run code and are not "
            "read; if you trust their author, convert them once, in a copy of the folder: "
            f'safetensors.torch.save_file(torch.load("{BGE_M3_PICKLED_HEAD}", weights_only=True), "{BGE_M3_HEAD}"). '
            "Or delete the file to use the hidden states without that head"
        )
    return None
