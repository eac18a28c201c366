"""The settings that every engine stores with its documents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import short_repr
from ..model import OpticalModel
from ..retrieval import OpticalRetriever


FORMAT_VERSION = 1


@dataclass(frozen=True)
class IndexSettings:
    """
    Settings that every engine stores with its documents.

    Args:
        base_model (`str`): Folder or Hub id of the base that encoded the documents.
        base_fingerprint (`str`): Its fingerprint. Queries of another base are refused.
        roles (`dict`): Settings of its processor.
        dim (`int`): Numbers in a token vector.
        dtype (`str`): Data type of the stored vectors, one of the engine's `dtypes`.
    """

    base_model: str
    base_fingerprint: str
    roles: dict[str, Any]
    dim: int
    dtype: str
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, retriever: OpticalRetriever, dtype: str = "float16") -> IndexSettings:
        """Settings for documents that the [`~OpticalRetriever.indexer`] of a retriever encodes."""
        retriever = retriever.indexer
        base = retriever.model.name_or_path or ""
        return cls(
            # A relative path would be lost when the index is opened from another folder.
            base_model=os.path.abspath(base) if os.path.isdir(base) else base,
            base_fingerprint=retriever.model.fingerprint(),
            roles=retriever.processor.roles,
            dim=retriever.model.embedding_dim,
            dtype=dtype,
        )

    def check_base(self, model: OpticalModel, place: str) -> None:
        """Raise `ValueError` unless `model` is the base that encoded the documents; `place` names the index."""
        found = model.fingerprint()
        if found != self.base_fingerprint:
            raise ValueError(
                f"the queries must be encoded on the base of the index in {place}, {self.base_model or 'unnamed'} "
                f"(fingerprint {self.base_fingerprint[:12]}), got {model.name_or_path or 'an unnamed model'} "
                f"(fingerprint {found[:12]}); open a pack of that base, or build the index again"
            )

    def to_json(self) -> str:
        """The settings as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> IndexSettings:
        """
        Read what [`~IndexSettings.to_json`] wrote; `place` names the index in messages.

        Raises:
            OSError: If an entry is missing or has the wrong type, or a newer version of hf_optical wrote it.
        """
        try:
            stored = json.loads(text)
        except ValueError as error:
            raise OSError(f"the settings of {place} are damaged ({error}); build the index again") from error
        return cls.from_dict(stored, place)

    @classmethod
    def from_dict(cls, stored: Any, place: str) -> IndexSettings:
        """[`~IndexSettings.from_json`] of a dictionary, which may have other entries too."""
        stored = stored if isinstance(stored, Mapping) else {}
        version = stored.get("format_version")
        if version != FORMAT_VERSION:
            raise OSError(
                f"{place} must have format version {FORMAT_VERSION}, got {short_repr(version)}; open it with the "
                "version of hf_optical that wrote it"
            )
        kinds = {"base_model": str, "base_fingerprint": str, "roles": dict, "dim": int, "dtype": str}
        for name, kind in kinds.items():
            if not isinstance(stored.get(name), kind):
                raise OSError(f"{place} is damaged (its entry {name!r}); build the index again")
        return cls(**{name: stored[name] for name in kinds})
