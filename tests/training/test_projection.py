"""Students whose vectors have another size than the teacher's, or lie in another space."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import DEMO, tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever, load_beir
from hf_optical.index import create_index
from hf_optical.retrieval import reduce_dimension
from hf_optical.training.evaluation import evaluate_retriever
from hf_optical.training.projection import _sentences


QUERIES = ["Malaria huenezwa na nini?", "Kahawa inauzwa wapi?"]
DOCUMENTS = ["Malaria is spread by mosquitoes.", "The farmer sells coffee at the market.", "Rain falls on the lake."]


@pytest.fixture(scope="module")
def small_teacher(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher"), "bert", projection_dim=16, seed=7)


@pytest.fixture
def project(make_trainer, small_teacher):
    """Make a trainer that decides by itself whether to fit a projection."""

    def make(**options):
        return make_trainer(**{"teacher": str(small_teacher), "fit_projection": None, "max_steps": 1, **options})

    return make


@pytest.fixture(scope="module")
def students(tmp_path_factory) -> dict[str, Path]:
    """Students of two architectures; that of bge-m3 has a multi-vector head."""
    return {
        "modernbert": tiny_checkpoint(tmp_path_factory.mktemp("modernbert"), "modernbert", seed=3),
        "projected": tiny_checkpoint(tmp_path_factory.mktemp("projected"), projection_dim=24, seed=3),
    }


@pytest.mark.parametrize("architecture", ["modernbert", "projected"])
def test_pack_of_another_size_opens_and_searches_the_index_of_its_teacher(
    project, students, small_teacher, tmp_path, architecture
):
    trainer = project(student=str(students[architecture]), new_words=20)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    folder = tmp_path / "run"
    trainer.set_language("sw")
    inputs = trainer.processors["sw"].queries(QUERIES)
    expected = trainer.model.eval()(**inputs)

    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    found = retriever.encode_queries(QUERIES)
    for row, vectors in enumerate(found):
        assert torch.equal(vectors, expected.embeddings[row][expected.mask[row]]) and vectors.shape[1] == 16
    assert retriever.model.name_or_path == str(students[architecture]), "the pack opens on the student as it was"

    teacher = OpticalRetriever.from_pretrained(small_teacher, device="cpu")
    documents = teacher.encode_documents(DOCUMENTS)
    for own, other in zip(retriever.encode_documents(DOCUMENTS), documents, strict=True):
        assert torch.equal(own, other)
    hits = teacher.search(found, documents)
    assert retriever.search(QUERIES, DOCUMENTS) == hits
    index = create_index(tmp_path / "index", teacher, DOCUMENTS, dtype="float32")
    create_index(tmp_path / "again", retriever, DOCUMENTS)
    again = OpticalRetriever.from_pretrained(folder, device="cpu")
    searched = again.search(QUERIES, index)
    assert [[(int(hit.document), hit.score) for hit in own] for own in searched] == [
        [(hit.document, pytest.approx(hit.score, abs=1e-6)) for hit in own] for own in hits
    ]
    assert again._indexer is None, "a teacher is not opened to search an index that it made"
    assert "fitted on 27 sentences" in (folder / "README.md").read_text("utf-8")


def test_saved_retriever_and_merged_model_give_the_vectors_of_the_pack(project, small_teacher, tmp_path):
    trainer = project()
    trainer.train()
    trainer.save_model()
    retriever = OpticalRetriever.from_pretrained(tmp_path / "run", device="cpu")
    expected = retriever.encode_queries(QUERIES)
    retriever.save_pretrained(tmp_path / "retriever")
    for place in ("retriever", "retriever/language_packs/sw"):
        again = OpticalRetriever.from_pretrained(tmp_path / place, teacher_model=small_teacher, device="cpu")
        assert all(map(torch.equal, again.encode_queries(QUERIES), expected))
        assert again.indexer.model.fingerprint() == OpticalModel.from_pretrained(small_teacher).fingerprint()
    retriever.merge("sw").save_pretrained(tmp_path / "merged")
    merged = OpticalRetriever.from_pretrained(tmp_path / "merged", device="cpu")
    for own, other in zip(merged.encode_queries(QUERIES), expected, strict=True):
        assert torch.allclose(own, other, atol=1e-5)


def test_resumed_run_has_the_projection_of_its_checkpoint(project, tmp_path):
    whole = project(output_dir=str(tmp_path / "whole"), max_steps=2)
    whole.train()
    whole.save_model()
    project(save_strategy="steps", save_steps=1, max_steps=1).train()
    resumed = project(max_steps=2)
    with torch.no_grad():
        resumed.model.projection.weight.mul_(1 + 1e-7)  # as fitted with other rounding
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    resumed.save_model()
    before, after = (LanguagePack.from_pretrained(tmp_path / name) for name in ("whole", "run"))
    assert before.base_fingerprint == after.base_fingerprint == resumed.model.fingerprint()
    assert torch.equal(before.projection["weight"], after.projection["weight"])


def test_spaces_of_one_size_are_projected_only_if_they_differ(project, tiny, tmp_path, teacher_folder):
    assert project(teacher=str(teacher_folder)).model.fitted
    assert not project(teacher=str(teacher_folder), fit_projection=False).model.fitted
    assert not project(teacher=str(tiny)).model.fitted
    # A copy with slightly other weights, as after some training.
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-3 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "near")
    processor.save_pretrained(tmp_path / "near")
    assert not project(teacher=str(tmp_path / "near")).model.fitted
    assert project(teacher=str(tmp_path / "near"), fit_projection=True).model.fitted


def test_other_size_without_projection_raises(project):
    with pytest.raises(ValueError, match=r"size of the teacher's, 16, got 32; leave out fit_projection=False"):
        project(fit_projection=False)
    with pytest.raises(ValueError, match=r"size of the teacher's, 16, got 32; pass a train_dataset"):
        project(train_dataset=None, new_words=0)


def test_all_weights_are_trained_with_the_projection(project, tmp_path):
    trainer = project(train_all_weights=True, max_steps=2)
    before = trainer.model.projection.weight.detach().clone()
    trainer.train()
    trainer.save_model()
    saved = OpticalModel.from_pretrained(tmp_path / "run")
    assert saved.embedding_dim == 16 and not torch.equal(saved.projection.weight, before)


def test_retriever_refuses_packs_of_other_teachers_and_bases(project, tiny, small_teacher, tmp_path):
    project(output_dir=str(tmp_path / "own"), teacher=str(tiny)).save_model()
    project().save_model()
    retriever = OpticalRetriever.from_pretrained(tmp_path / "own", device="cpu")
    pack = LanguagePack.from_pretrained(tmp_path / "run")
    pack.language = "ha"
    with pytest.raises(
        ValueError, match=f"'ha' searches the index of {small_teacher}, that for 'sw' the index of its"
    ):
        retriever.add_language("ha", pack)
    retriever.remove_language("sw")
    with pytest.raises(ValueError, match=r"open the pack itself with OpticalRetriever.from_pretrained"):
        retriever.add_language("ha", pack)


def test_teacher_that_is_missing_or_another_model_raises(project, tiny, small_teacher, tmp_path):
    moved = shutil.copytree(small_teacher, tmp_path / "teacher")
    project(teacher=str(moved)).save_model()
    shutil.rmtree(moved)
    retriever = OpticalRetriever.from_pretrained(tmp_path / "run", device="cpu")
    assert retriever.encode_queries(QUERIES)[0].shape[1] == 16
    with pytest.raises(OSError, match=r"cannot open the teacher.*Pass its place as teacher_model"):
        retriever.encode_documents(DOCUMENTS)
    for place, error in ((tiny, "the teacher must be"), (small_teacher, None)):
        retriever = OpticalRetriever.from_pretrained(tmp_path / "run", teacher_model=place, device="cpu")
        if error is None:
            assert retriever.encode_documents(DOCUMENTS)[0].shape[1] == 16
        else:
            with pytest.raises(ValueError, match=error):
                retriever.encode_documents(DOCUMENTS)


def test_dimension_is_not_reduced_apart_from_the_teacher(project, tmp_path):
    project().save_model()
    retriever = OpticalRetriever.from_pretrained(tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match="change that model first, and train packs with the result as teacher"):
        reduce_dimension(retriever, DOCUMENTS, 8)


def test_evaluation_searches_the_index_of_the_teacher(project, tmp_path):
    trainer = project()
    trainer.save_model()
    retriever = OpticalRetriever.from_pretrained(tmp_path / "run", device="cpu")
    results = evaluate_retriever(retriever, load_beir(DEMO / "retrieval"), "sw")
    assert {"trained", "zero_shot", "ceiling"} <= results["measures"]["map"].keys()


def test_sentences_are_of_all_languages_alike():
    rows = {code: [{"translation": {"en": f"{code} {i}"}} for i in range(5000)] for code in ("sw", "lo")}
    texts = _sentences({code: Dataset.from_list(own) for code, own in rows.items()}, "en")
    assert len(texts) == 5500 and sum(text.startswith("lo") for text in texts) == 2750


def test_dictionary_alone_fits_the_projection_on_english_texts(project, teacher_folder, tmp_path, caplog):
    (tmp_path / "sw-en.txt").write_text("mkoko\twater\n", encoding="utf-8")
    options = {"teacher": str(teacher_folder), "dictionary": [str(tmp_path / "sw-en.txt")]}
    options |= {"train_dataset": None, "eval_dataset": None}
    texts = [f"{number}: the farmer sells water at the market." for number in range(20)]
    assert project(**options, english_texts=texts).model.fitted
    assert not project(**options).model.fitted
    assert "no sentences to tell whether their vectors are alike" in caplog.text
    with pytest.raises(ValueError, match="fit_projection must be.*no sentences to fit it on"):
        project(**options, fit_projection=True)
