"""Published bitext and retrieval sets load unchanged. HF_OPTICAL_DATA is the folder that contains them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import REPOSITORY

from hf_optical import load_beir, load_bitext
from hf_optical.bitext import filter_bitext


DATA = Path(os.environ.get("HF_OPTICAL_DATA", REPOSITORY.parent / "shared" / "data"))
BITEXT = sorted(DATA.glob("bitext/*/*.jsonl.gz"))
JUDGED = sorted(DATA.glob("*/*/qrels/*.tsv"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="HF_OPTICAL_DATA is not a folder"),
]


@pytest.mark.parametrize("path", BITEXT, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_bitext_loads(path):
    language = path.parent.name
    pairs = load_bitext(path, language)
    kept, counts = filter_bitext(pairs, language)
    assert len(kept) == counts.kept > 0.95 * len(pairs)
    assert counts.kept + counts.empty + counts.duplicate + counts.unequal == len(pairs)


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_retrieval_set_loads(path):
    folder = path.parent.parent
    shared = folder.parent / "corpus.jsonl.gz"
    dataset = load_beir(folder, path.stem, shared if shared.is_file() else None)
    assert len(dataset.queries) == len(path.read_text(encoding="utf-8").splitlines()) - 1
    assert all(query.translation for query in dataset.queries.values())
