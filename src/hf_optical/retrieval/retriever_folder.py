"""
A retriever on disk.

The folder holds the base in its usual layout, each open pack in `language_packs/LANGUAGE`, and `languages.json`, which
lists the open languages and names the active one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hub import write_card
from ..hub.cards import FIGURE
from ..languages import LanguagePack, active_language, languages
from ..languages.adapters import adapter_name
from ..languages.pack import is_pack
from ..model import OpticalModel, OpticalProcessor
from ..storage.fetching import packaged_copy
from ..storage.json_files import read_json, write_json
from ..storage.names import ENCODER_CONFIG, PACKS_FOLDER
from ..storage.staging import discard


LANGUAGES_FILE = "languages.json"


def open_base(
    name: str | os.PathLike, revision: str | None, dtype: torch.dtype | str
) -> tuple[OpticalModel, OpticalProcessor]:
    """Open a model and its processor."""
    return (
        OpticalModel.from_pretrained(name, revision=revision, dtype=dtype),
        OpticalProcessor.from_pretrained(name, revision=revision),
    )


def open_base_of_pack(
    pack: LanguagePack, folder: Path, base_model: str | os.PathLike | None, dtype: torch.dtype | str
) -> tuple[OpticalModel, OpticalProcessor]:
    """Open the base of the pack in `folder`: `base_model`, else the retriever around the pack, else what it names."""
    packs, revision = folder.absolute().parent, None
    if base_model is None and packs.name == PACKS_FOLDER and (packs.parent / ENCODER_CONFIG).is_file():
        base_model = packs.parent
    elif base_model is None:
        base_model = pack.base_model
        # An installed package with the same weights serves for any commit. The fingerprint is compared later.
        revision = None if packaged_copy(base_model) else pack.base_revision
    try:
        model, processor = open_base(base_model, revision, dtype)
    except OSError as error:
        raise OSError(f"cannot open the base of {folder}: {error}. Pass its place as base_model") from error
    return model.with_projection(**pack.projection) if pack.projection else model, processor


def read_languages(folder: Path) -> tuple[list[str], str | None]:
    """The open languages and the active one; none for the folder of a plain model."""
    path = folder / LANGUAGES_FILE
    if not path.is_file():
        return [], None
    stored = read_json(path, {"languages": [str], "language": str})
    codes, active = stored.get("languages"), stored.get("language")
    try:
        if codes is None or active not in [None, *codes]:
            raise ValueError("it must list the languages, with the active one among them")
        for code in codes:
            adapter_name(code)  # codes name folders
    except ValueError as error:
        raise OSError(f"{path} is damaged ({error}); fetch or save the retriever again") from error
    return codes, active


def check_unchanged(model: OpticalModel, packs: Mapping[str, LanguagePack], fingerprint: str) -> None:
    """Raise `ValueError` if the base changed after packs were opened on it: they would not open again."""
    changed = [language for language, pack in packs.items() if pack.base_fingerprint != fingerprint]
    if changed:
        raise ValueError(
            f"the base was changed, for example by a cast to {model.dtype}, after the packs for {', '.join(changed)} "
            "were opened, so they would not open on the saved base. Open the retriever again and save it unchanged, "
            "or change the result of merge(LANGUAGE), or close the packs with remove_language"
        )


def write_packs(
    model: OpticalModel,
    processor_of: Callable[[str], OpticalProcessor],
    packs: Mapping[str, LanguagePack],
    fingerprint: str,
    folder: Path,
    staged: Path,
) -> None:
    """Write the open packs and the list of languages to `staged`, and delete other packs of `folder`."""
    opened = languages(model)
    for language in opened:
        roles = processor_of(language).roles
        current = LanguagePack.from_model(model, language, roles=roles, base_fingerprint=fingerprint)
        pack = replace(
            packs.get(language, current),
            weights=current.weights,
            vocabulary=current.vocabulary,
            strength=current.strength,
        )
        # The base is the folder around the pack, wherever that is moved.
        pack.without_local_paths().save_pretrained(staged / PACKS_FOLDER / language)
    if opened:
        write_json(staged / LANGUAGES_FILE, {"languages": opened, "language": active_language(model)})
    else:
        discard(staged / LANGUAGES_FILE)
    for path in (folder / PACKS_FOLDER).glob("*"):
        if is_pack(path) and path.name not in opened:
            discard(staged / PACKS_FOLDER / path.name)


def write_cards(
    folder: Path,
    model: OpticalModel,
    packs: Mapping[str, LanguagePack],
    merged: LanguagePack | None,
    repo_id: str,
) -> None:
    """Write the cards of a saved retriever and its packs. `merged` is the pack in the weights of the base, if any."""
    name, revision = model.name_or_path, model.revision
    known = [*([merged] if merged else []), *packs.values()]
    if not known and name and (Path(name) / "README.md").is_file():
        for file in ("README.md", FIGURE):
            if (Path(name) / file).is_file():
                shutil.copy(Path(name) / file, folder)
        return
    for language, pack in packs.items():
        pack.write_card(folder / PACKS_FOLDER / language, repo_id)
    if merged is not None:
        name, revision = merged.base_model, merged.base_revision
    write_card(
        folder,
        kind="model",
        base_model=name or "",
        base_revision=revision,
        languages=list(dict.fromkeys(code for pack in known for code in pack.reads)),
        details=_common_details([pack.details for pack in known]),
        repo_id=repo_id,
    )


def _common_details(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Entries that all packs share, and the results of each pack."""
    common = {
        name: value
        for name, value in (details[0] if details else {}).items()
        if all(own.get(name) == value for own in details)
    }
    results = {language: found for own in details for language, found in (own.get("results") or {}).items()}
    return {**common, "results": results}
