"""
Layouts of late-interaction checkpoints. Each is read by a function in its own file, which returns a [`Layout`]:

| written by | recognised by | file |
|---|---|---|
| `MultiVectorEncoder` of sentence-transformers | its `model_type` | `multi_vector_encoder.py` |
| PyLate, and this library | its `model_type`, or settings that only PyLate has | `pylate.py` |
| Stanford's ColBERT | its `architectures` in `config.json` | `stanford.py` |
| BGE-M3 | the file of its multi-vector head | `bge_m3.py` |
| transformers; sentence-transformers for sentence vectors | none of these | `encoder.py` |

This library writes the layout of PyLate, since every library can open it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.fetching import local_folder
from ...storage.json_files import read_optional_json
from ...storage.names import ENCODER_CONFIG, ENCODER_MODULE_CONFIG, WEIGHTS
from ...storage.safety import check_redirects
from .base import ROLE_KINDS, Layout, Roles, invalid_roles
from .bge_m3 import read_bge_m3
from .encoder import DOCUMENT_LENGTH, read_encoder
from .multi_vector_encoder import read_multi_vector_encoder
from .projection import LinearLayer, load_projection
from .pylate import read_pylate, write_modules, write_projection, write_roles
from .stanford import read_stanford
from .tokens import token_id


# The first reader that recognises a folder is used. The last one accepts any encoder, so add new ones before it.
_READERS = (read_multi_vector_encoder, read_pylate, read_stanford, read_bge_m3, read_encoder)

_PACK, _ADAPTER = "language_pack.json", "adapter_config.json"


def read_layout(name_or_path: str | os.PathLike, revision: str | None = None) -> Layout:
    """Read the layout of a checkpoint folder or Hub id. Weights and tokenizer are not opened yet."""
    folder = local_folder(name_or_path, revision)
    if problem := _problem(folder):
        raise OSError(f"{folder} {problem}")
    check_redirects(folder)
    layout = next(layout for layout in (read(folder) for read in _READERS) if layout is not None)
    layout.lower_case = bool(read_optional_json(folder / ENCODER_MODULE_CONFIG).get("do_lower_case"))
    layout.roles = _with_folder_in_errors(folder, layout.roles)
    if folder.parent.name == "snapshots" and not Path(name_or_path).is_dir():
        # The Hub's cache keeps every commit in a folder of that name.
        layout.revision = folder.name
    return layout


def _problem(folder: Path) -> str | None:
    """Describe why a folder is not that of a model; `None` if it is."""
    files = {path.name for path in folder.iterdir()}
    if _PACK in files and WEIGHTS not in files:
        return "is a language pack; open it with OpticalRetriever.from_pretrained, which opens its base too"
    if _ADAPTER in files and WEIGHTS not in files:
        return "is a PEFT adapter without its base; open the base, or merge the adapter into it with PEFT"
    if _ADAPTER in files:
        # transformers would open the base that the adapter names instead of this folder.
        return f"contains both a model and the {_ADAPTER} of an adapter; move them to separate folders"
    if ENCODER_CONFIG not in files:
        found = ", ".join(sorted(files)[:20]) or "nothing"
        return f"is not a model folder: looked for {ENCODER_CONFIG}, found {found}"
    return None


def _with_folder_in_errors(folder: Path, roles: Roles) -> Roles:
    """Let errors of `roles` name the folder. Those caused by a damaged tokenizer become `OSError`."""

    def named(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        try:
            return roles(tokenizer)
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(f"the settings in {folder} do not fit its tokenizer: {str(error)[:1000]}") from error

    return named


__all__ = [
    "DOCUMENT_LENGTH",
    "ROLE_KINDS",
    "Layout",
    "LinearLayer",
    "invalid_roles",
    "load_projection",
    "read_layout",
    "token_id",
    "write_modules",
    "write_projection",
    "write_roles",
]
