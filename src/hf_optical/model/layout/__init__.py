"""
The folders that a late-interaction checkpoint can lie in. Each is read by a function in a file of its own, and
whatever it says comes out as a [`Layout`]:

| written by | known by | read in |
|---|---|---|
| `MultiVectorEncoder` of sentence-transformers | its `model_type` | `multi_vector_encoder.py` |
| PyLate, and this library | its `model_type`, or settings that only PyLate has | `pylate.py` |
| Stanford's ColBERT | its `architectures` in `config.json` | `stanford.py` |
| transformers; sentence-transformers for sentence vectors | none of these | `encoder.py` |

This library writes one of them, PyLate's, since every library opens it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...storage.fetching import local_folder
from ...storage.json_files import read_optional_json
from ...storage.names import ENCODER_CONFIG, ENCODER_MODULE_CONFIG, WEIGHTS
from ...storage.safety import check_detours
from .base import QUERY_LENGTH, Layout, Roles, unfit_roles
from .encoder import DOCUMENT_LENGTH, read_encoder
from .multi_vector_encoder import read_multi_vector_encoder
from .projection import LinearLayer, load_projection
from .pylate import read_pylate, write_modules, write_projection, write_roles
from .stanford import read_stanford
from .tokens import token_id


# The first that knows a folder reads it; the last one knows any encoder. A new layout goes before that.
_READERS = (read_multi_vector_encoder, read_pylate, read_stanford, read_encoder)

ADAPTER = "adapter_config.json"
# What else people hand over -> what it is, and what opens it.
_OTHERS = {
    "language_pack.json": "a language pack; open it with OpticalRetriever.from_pretrained, which opens its base too",
    ADAPTER: "a PEFT adapter without its base; open the base, or merge the adapter into it with PEFT",
}


def read_layout(name_or_path: str | os.PathLike, revision: str | None = None) -> Layout:
    """
    Looks at a checkpoint folder or Hub id; weights and tokenizer are not opened yet.

    Raises:
        OSError: the folder is none of the above; the message says what was looked for and what was found. Or a file
            is no JSON.
        ValueError: the checkpoint does what this library does not, and the message says what.
    """
    folder = local_folder(name_or_path, revision)
    for name, what in _OTHERS.items():
        if (folder / name).is_file() and not (folder / WEIGHTS).is_file():
            raise OSError(f"{folder} is {what}")
    if (folder / ADAPTER).is_file():
        # transformers would leave the folder for the base that the adapter names.
        raise OSError(f"{folder} holds a model and {ADAPTER} of an adapter, one of which hides the other; part them")
    if not (folder / ENCODER_CONFIG).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise OSError(f"{folder} is no model folder: looked for {ENCODER_CONFIG}, found {found}")
    check_detours(folder)
    layout = next(layout for layout in (read(folder) for read in _READERS) if layout is not None)
    layout.lower_case = bool(read_optional_json(folder / ENCODER_MODULE_CONFIG).get("do_lower_case"))
    layout.roles = _named(folder, layout.roles)
    if folder.parent.name == "snapshots" and not Path(name_or_path).is_dir():
        # The Hub's client keeps every commit in a folder of that name.
        layout.revision = folder.name
    return layout


def _named(folder: Path, roles: Roles) -> Roles:
    """Errors of `roles` name the folder; what the tokenizer of a damaged folder gives rise to is an `OSError`."""

    def named(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        try:
            return roles(tokenizer)
        except ValueError as error:
            raise ValueError(f"{folder} cannot be read: {str(error)[:1000]}") from error
        except Exception as error:
            raise OSError(
                f"{folder} tells how texts are read in no way that fits its tokenizer ({str(error)[:1000]})"
            ) from error

    return named


__all__ = [
    "DOCUMENT_LENGTH",
    "QUERY_LENGTH",
    "Layout",
    "LinearLayer",
    "load_projection",
    "read_layout",
    "token_id",
    "unfit_roles",
    "write_modules",
    "write_projection",
    "write_roles",
]
