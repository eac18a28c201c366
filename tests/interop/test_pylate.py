"""
Our folders opened by PyLate, PyLate's folders opened here, and its vectors searched with our queries.

PyLate runs in a separate environment (`pylate_environment.py`): the one in HF_OPTICAL_PYLATE, or else a new one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from interop.folders import HARD, LATE, SOURCES, largest_difference, tiny_encoder, tokenizer_of, write_folder
from interop.pylate_environment import pylate_python
from packs import WORDS, make_pack
from tiny import REPOSITORY

from hf_optical import OpticalRetriever
from hf_optical.hub import write_card


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# PyLate's options for a new model.
FRESH = {
    "its defaults": {},
    "neither markers nor expansion": {
        "query_prefix": "",
        "document_prefix": "",
        "do_query_expansion": False,
        "embedding_size": 8,
    },
    "attended expansion, own skip list": {
        "query_length": 16,
        "document_length": 24,
        "attend_to_expansion_tokens": True,
        "skiplist_words": [",", "?"],
    },
    "one marker, nothing skipped": {"query_prefix": "[Q]", "document_prefix": "", "skiplist_words": []},
    "prompts": {
        "query_prefix": "",
        "document_prefix": "",
        "do_query_expansion": False,
        "prompts": {"query": "query: ", "document": "passage: "},
    },
    "a second projection": {"embedding_size": 8},
    "markers and prompts": {"prompts": {"query": "query: ", "document": "passage: "}},
}
THEIRS = [(architecture, name) for architecture in LATE for name in FRESH]


class Encoded:
    """PyLate's vectors, token ids and warnings for the texts in `HARD`."""

    def __init__(self, path: Path):
        arrays = np.load(path)
        self.vectors, self.ids = {}, {}
        for role in ("query", "document"):
            self.vectors[role] = [torch.from_numpy(arrays[f"{role}_{i}"]) for i in range(len(HARD))]
            self.ids[role] = [arrays[f"{role}_{i}_ids"].tolist() for i in range(len(HARD))]
        self.warned = json.loads(Path(f"{path}.log").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """PyLate's interpreter."""
    return pylate_python(Path(os.environ.get("HF_OPTICAL_PYLATE") or tmp_path_factory.mktemp("environment")))


@pytest.fixture(scope="module")
def root(python, tmp_path_factory) -> Path:
    """A folder in which PyLate has opened our checkpoints and saved its own."""
    root = tmp_path_factory.mktemp("pylate")
    jobs = [{"open": write_folder(root / "ours" / "/".join(source), *source)} for source in SOURCES]
    for architecture, name in THEIRS:
        encoder = root / "encoders" / architecture
        if name == "a second projection":
            encoder = root / "ours" / architecture / "projection"
        elif not encoder.exists():
            tokenizer = tokenizer_of(architecture)
            tiny_encoder(architecture, tokenizer).save_pretrained(encoder)
            tokenizer.save_pretrained(encoder)
        jobs.append({"open": encoder, "arguments": FRESH[name], "save": root / "theirs" / architecture / name})
    run(python, jobs, root)
    return root


def run(python: Path, jobs: list[dict], root: Path) -> None:
    """Run all jobs in one PyLate process."""
    for job in jobs:
        folder = job.get("save", job["open"])
        job |= {"queries": HARD, "documents": HARD, "vectors": f"{folder}/vectors.npz"}
        job["prompts"] = folder.name.endswith("prompts")
    (root / "jobs.json").write_text(json.dumps(jobs, default=str), encoding="utf-8")
    subprocess.run([python, Path(__file__).with_name("pylate_run.py"), root / "jobs.json"], check=True)


@pytest.mark.parametrize("source", SOURCES, ids=": ".join)
def test_pylate_opens_our_folders(root, source):
    folder = root / "ours" / "/".join(source)
    peer = Encoded(folder / "vectors.npz")
    assert peer.warned == []
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    assert largest_difference(peer.vectors["query"], retriever.encode_queries(HARD)) <= 1e-6
    assert largest_difference(peer.vectors["document"], retriever.encode_documents(HARD)) <= 1e-6


@pytest.mark.parametrize("source", THEIRS, ids=": ".join)
def test_pylate_folders_open_here(root, source):
    folder = root / "theirs" / "/".join(source)
    peer = Encoded(folder / "vectors.npz")
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    for role in ("query", "document"):
        batch = retriever.processor(HARD, role)
        ids = [row[mask].tolist() for row, mask in zip(batch["input_ids"], batch["token_mask"], strict=True)]
        assert ids == peer.ids[role]
    assert largest_difference(peer.vectors["query"], retriever.encode_queries(HARD)) <= 1e-6
    assert largest_difference(peer.vectors["document"], retriever.encode_documents(HARD)) <= 1e-6


def test_pylate_folders_saved_here_are_unchanged_everywhere(python, root, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    folders = {source: tmp_path / "/".join(source) for source in THEIRS}
    for source, folder in folders.items():
        retriever = OpticalRetriever.from_pretrained(root / "theirs" / "/".join(source), device="cpu")
        retriever.save_pretrained(folder)
        again, encoder = OpticalRetriever.from_pretrained(folder, device="cpu"), MultiVectorEncoder(str(folder))
        queries, documents = retriever.encode_queries(HARD), retriever.encode_documents(HARD)
        assert largest_difference(again.encode_queries(HARD), queries) == 0.0, source
        assert largest_difference(again.encode_documents(HARD), documents) == 0.0, source
        assert largest_difference(encoder.encode_query(HARD), queries) <= 1e-6, source
        assert largest_difference(encoder.encode_document(HARD), documents) <= 1e-6, source
    run(python, [{"open": folder} for folder in folders.values()], tmp_path)
    for source, folder in folders.items():
        before = Encoded(root / "theirs" / "/".join(source) / "vectors.npz").vectors
        after = Encoded(folder / "vectors.npz").vectors
        assert max(largest_difference(after[role], before[role]) for role in before) <= 1e-6, source


@pytest.mark.parametrize("architecture", LATE)
def test_index_exported_by_pylate_is_searchable_with_a_pack(root, architecture):
    base = root / "ours" / architecture / "projection"
    index = Encoded(base / "vectors.npz").vectors["document"]
    retriever = OpticalRetriever.from_pretrained(base, device="cpu")
    retriever.add_language("sw", make_pack(base, "sw", 7, WORDS))
    queries = retriever.encode_queries(HARD, language="sw")
    found = retriever.search(queries, index, top_k=5)
    expected = retriever.search(queries, retriever.encode_documents(HARD), top_k=5)
    assert [[hit.document for hit in hits] for hits in found] == [[hit.document for hit in hits] for hits in expected]
    scores = torch.tensor([[[hit.score for hit in hits] for hits in both] for both in (found, expected)])
    assert (scores[0] - scores[1]).abs().max() <= 1e-5
    assert largest_difference(queries, retriever.encode_queries(HARD, language="base")) > 0.1


def test_snippets_on_page_and_cards_run(python, tmp_path):
    base = write_folder(tmp_path / "outputs" / "base", "bert", "nothing")
    write_card(base, kind="model", base_model="", languages=["sw"], details={}, repo_id=str(base))
    code = []
    for page in (REPOSITORY / "docs" / "how_to" / "keep_index.md", base / "README.md"):
        snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        (snippet,) = [snippet for snippet in snippets if "from pylate" in snippet]
        code.append(snippet)
    subprocess.run([python, "-c", "\n".join(code)], cwd=tmp_path, check=True)
    index = list(np.load(tmp_path / "outputs" / "index.npz").values())
    documents = ["Coffee beans are roasted before they are ground.", "Malaria is spread by mosquitoes."]
    retriever = OpticalRetriever.from_pretrained(base, device="cpu")
    assert largest_difference(index, retriever.encode_documents(documents)) <= 1e-6
