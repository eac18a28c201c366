"""The code in `docs/guide/` runs as it is."""

from __future__ import annotations

import re

import promises
import pytest
import torch
from packs import untrained_pack
from small_examples import small_examples
from tiny import REPOSITORY, demo_pairs

from hf_optical import LanguagePack, OpticalRetriever
from hf_optical.studies import load_study


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "guide" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_evaluation_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_examples(tmp_path / "examples")
    scope: dict = {"__name__": "docs"}
    for snippet in blocks("evaluation.md", "python"):
        exec(compile(snippet, "evaluation.md", "exec"), scope)
    assert scope["comparison"].winner == "translated by a person"
    assert "'AP'" in capsys.readouterr().out


def test_snippets_without_bitext_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    scope: dict = {"__name__": "docs"}
    for page in ("without_bitext.md", "misaligned_pairs.md"):
        for snippet in blocks(page, "python"):
            exec(compile(snippet, page, "exec"), scope)
    assert "The umwana carries amenshi to the ing'anda." in capsys.readouterr().out
    assert scope["ranked"]["cost"] == sorted(scope["ranked"]["cost"], reverse=True)


@pytest.fixture(scope="module")
def pack() -> LanguagePack:
    return untrained_pack("sw")


def test_index_snippets_run(pack, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pack.save_pretrained("outputs/sw")
    scope: dict = {"__name__": "docs", "documents": [pair["en"] for pair in demo_pairs()[:50]]}
    for snippet in blocks("indexes.md", "python"):
        exec(compile(snippet, "indexes.md", "exec"), scope)
    assert "mosquitoes" in capsys.readouterr().out


# The trainer of sentence-transformers always pins memory.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_interoperability_snippets_run(pack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    pack.save_pretrained("outputs/sw")
    scope: dict = {"__name__": "docs"}
    for snippet in blocks("interoperability.md", "python"):
        exec(compile(snippet, "interoperability.md", "exec"), scope)
    further = LanguagePack.from_pretrained("outputs/sw-further")
    assert (further.vocabulary.rows - pack.vocabulary.rows).abs().max() > 0
    assert further.base_fingerprint == pack.base_fingerprint
    OpticalRetriever.from_pretrained("outputs/sw-further")


def test_language_pack_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    for code, max_words in {"ha": 500, "yo": 200}.items():
        untrained_pack(code, max_words).save_pretrained(f"outputs/{code}")
    scope: dict = {"__name__": "docs"}
    for page in (
        "language_packs.md",
        "typing_errors.md",
        "strength.md",
        "query_weights.md",
        "publishing.md",
        "new_words.md",
    ):
        for snippet in blocks(page, "python"):
            exec(compile(snippet, page, "exec"), scope)
    assert "['ha', 'yo'] ha\n" in capsys.readouterr().out
    assert [hit[0].document for hit in scope["hits"]] == [0, 0, 0]
    again = scope["again"]
    assert (again.languages, again.language) == (["ha", "yo"], "ha")
    assert torch.equal(again.encode_queries(["maji"])[0], scope["retriever"].encode_queries(["maji"])[0])
    assert OpticalRetriever.from_pretrained("outputs/merged").languages == []
    assert scope["lexicon"].top("maji", 1)[0][0] == "water"
    assert "maji water\n" in (tmp_path / "sw-en.txt").read_text(encoding="utf-8")


def test_documented_and_published_studies_are_valid(tmp_path):
    (block,) = blocks("studies.md", "yaml")
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    published = sorted((REPOSITORY / "docs" / "measurements" / "studies").glob("*/study.yaml"))
    assert published
    examples = [REPOSITORY / "examples" / "studies" / f"{name}.yaml" for name in ("multilingual", "robustness_gap")]
    for path in (tmp_path / "study.yaml", *published, *examples):
        # They fail only because their data files are missing.
        with pytest.raises(ValueError, match="data files are missing"):
            load_study(path)


def test_lists_of_promises_are_up_to_date():
    for name, text in promises.pages().items():
        assert (promises.FOLDER / name).read_text(encoding="utf-8") == text, "run `python tests/promises.py`"
