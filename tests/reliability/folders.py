"""Complete checkpoints of every layout, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path

from model.layout.checkpoints import STANFORD_METADATA, native_checkpoint, pylate_checkpoint, stanford_checkpoint
from tiny import tiny_checkpoint

from hf_optical.languages.pack_files import sha256


LAYOUTS = ("encoder", "pylate", "multi_vector_encoder", "stanford")


def write_layout(folder: Path, layout: str) -> Path:
    """Create `folder` with a tiny checkpoint."""
    folder.mkdir()
    if layout == "pylate":
        return pylate_checkpoint(folder)
    if layout == "stanford":
        return stanford_checkpoint(folder, "bert", STANFORD_METADATA)
    if layout == "multi_vector_encoder":
        expansion = {"strategy": "fixed", "length": 24}
        return native_checkpoint(folder, added=("[Q] ",), prompts={"query": "[Q] "}, query_expansion=expansion)
    tiny_checkpoint(folder)
    for name in ("config_sentence_transformers.json", "modules.json", "1_Dense/config.json"):
        (folder / name).unlink()
    return folder


def sign_pack(folder: Path) -> None:
    """Update the hashes of a pack whose files were changed, as an attacker would, if it can still be read."""
    path = folder / "language_pack.json"
    try:
        stored = json.loads(path.read_text())
        stored["sha256"] = {file.name: sha256(file.read_bytes()) for file in sorted(folder.iterdir()) if file != path}
    except (ValueError, TypeError, RecursionError):
        return
    path.write_text(json.dumps(stored))
