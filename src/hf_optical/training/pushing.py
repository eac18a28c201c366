"""Upload of a finished pack, model or retriever from its folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitInfo

from ..errors import DataError
from ..languages import LanguagePack
from ..languages.pack import PACK_FILES, is_pack
from ..retrieval import OpticalRetriever
from ..storage.names import ENCODER_CONFIG
from ..storage.publishing import upload_folder
from .publishing import RESULT_FILES


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo | Future[CommitInfo]:
    """
    Upload a pack, a model or a saved retriever, with a card for the repository, and return the commit.

    `license`, an identifier of the Hub, is for the card of a pack. Other arguments are as in [`upload_folder`].

    Raises:
        DataError: the folder does not exist, or holds several packs.
        OSError: there is no model in the folder, or the Hub cannot be reached. The same call completes an upload.
        PermissionError: there is no token, or it may not write there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} must be the folder of a pack, a model or a retriever")
    if not is_pack(folder):
        packs = sorted(path.name for path in folder.iterdir() if is_pack(path))
        if packs and not (folder / ENCODER_CONFIG).is_file():
            raise DataError(f"{folder} holds several packs; push one of the folders in it: {', '.join(packs)}")
        retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
        return retriever.push_to_hub(repo_id, private=private, commit_message=commit_message)
    pack = LanguagePack.from_pretrained(folder).without_local_paths()
    if license:
        pack = replace(pack, details={**pack.details, "license": license})
    with tempfile.TemporaryDirectory() as staged:
        pack.save_pretrained(staged)
        for name in RESULT_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, staged)
        pack.write_card(staged, repo_id)
        return upload_folder(
            staged,
            repo_id,
            private=private,
            commit_message=commit_message or "Upload LanguagePack",
            delete_patterns=PACK_FILES,
        )
