from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packs import make_pack, retriever_with
from tiny import demo_pairs, tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalRetriever
from hf_optical.retrieval import BASE, center_vectors, fit_projection, reduce_dimension


TEXTS = [pair["en"] for pair in demo_pairs()[:60]]
QUERIES = ["the market opens", "mzuqo rain"]


def test_fitted_projection_keeps_most_of_the_inner_products():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 4, generator=generator) @ torch.randn(4, 12, generator=generator)
    projection = fit_projection(vectors, 4)
    assert torch.allclose(projection @ projection.T, torch.eye(4), atol=1e-5)
    small = vectors @ projection.T
    assert torch.allclose(small @ small.T, vectors @ vectors.T, rtol=1e-4, atol=1e-3)
    # The singular vectors of numpy span the same space.
    _, _, right = torch.linalg.svd(vectors, full_matrices=False)
    assert torch.allclose((projection[:2] @ right[:2].T).abs(), torch.eye(2), atol=1e-3)


@pytest.mark.parametrize("projection_dim", [None, 24])
def test_small_vectors_are_projections_also_those_of_packs(tmp_path, projection_dim):
    base = tiny_checkpoint(tmp_path / "base", projection_dim=projection_dim)
    pack = make_pack(base, "sw", seed=0, words=["mzuqo"])
    # The base is its own teacher, as in training.
    pack = replace(pack, details={**pack.details, "teacher_fingerprint": pack.base_fingerprint})
    retriever = retriever_with(base, {"sw": pack})
    before = retriever.encode_queries(QUERIES, language="sw")
    small = reduce_dimension(retriever, TEXTS, 8)
    projection = fit_projection(torch.cat(retriever.encode_documents(TEXTS)), 8)
    for language in ("base", "sw"):
        own = retriever.encode_queries(QUERIES, language=language)
        expected = [torch.nn.functional.normalize(vectors @ projection.T, dim=1) for vectors in own]
        for vectors, wanted in zip(small.encode_queries(QUERIES, language=language), expected, strict=True):
            assert torch.allclose(vectors, wanted, atol=1e-5)
    assert small.indexer is small and small.encode_documents(TEXTS[:1])[0].shape[1] == 8
    small.learn_spelling(TEXTS)
    assert not retriever.processor.known_words and not retriever.processor_of("sw").known_words
    assert all(map(torch.equal, retriever.encode_queries(QUERIES, language="sw"), before))
    small.save_pretrained(tmp_path / "small")
    assert OpticalModel.from_pretrained(tmp_path / "small").embedding_dim == 8
    opened = OpticalRetriever.from_pretrained(tmp_path / "small", device="cpu")
    assert opened.indexer is opened
    expected = small.encode_queries(QUERIES, language="sw")
    assert all(map(torch.equal, opened.encode_queries(QUERIES, language="sw"), expected))


def test_impossible_dimensions_are_refused(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    for dim in (0, retriever.model.embedding_dim):
        with pytest.raises(ValueError, match="dim must be between 1 and 31"):
            reduce_dimension(retriever, TEXTS, dim)
    with pytest.raises(ValueError, match="pass more texts"):
        reduce_dimension(retriever, ["rain"], 30)


@pytest.mark.parametrize("projection_dim", [None, 24])
def test_centered_vectors_have_no_common_part_also_those_of_packs(tmp_path, projection_dim):
    base = tiny_checkpoint(tmp_path / "base", projection_dim=projection_dim)
    pack = make_pack(base, "sw", seed=0, words=["mzuqo"])
    known = {"teacher": str(base), "teacher_fingerprint": pack.base_fingerprint, "results": {"sw": {}}}
    pack = replace(pack, details={**pack.details, **known})
    retriever = retriever_with(base, {"sw": pack})
    retriever.model.train()
    centered = center_vectors(retriever, TEXTS, batch_size=7)
    retriever.model.eval()
    states = {}
    retriever.model.encoder.register_forward_hook(lambda _, inputs, output: states.update(own=output))

    def read(processor, texts, role):
        """The vectors before they are normalised, and the tokens that take part."""
        inputs = processor(texts, role)
        mask = inputs["token_mask"].bool()
        retriever.model(**inputs)
        own = states["own"].last_hidden_state
        return (own if projection_dim is None else own @ retriever.model.projection.weight.T)[mask]

    retriever.set_language(BASE)
    with torch.no_grad():
        mean = torch.cat([read(retriever.processor, [text], "document") for text in TEXTS]).mean(0)
        for language in (BASE, "sw"):
            retriever.set_language(language)
            expected = read(retriever.processor_of(language), QUERIES, "query") - mean
            own = torch.cat(centered.encode_queries(QUERIES, language=language))
            assert torch.allclose(own, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)
    centered.save_pretrained(tmp_path / "centered")
    # Neither the model nor the pack names the base that it was.
    saved = LanguagePack.from_pretrained(tmp_path / "centered" / "language_packs" / "sw")
    assert not saved.base_model and not {"teacher", "results"} & saved.details.keys()
    assert saved.base_fingerprint == saved.details["teacher_fingerprint"] == centered.model.fingerprint()
    assert centered.model.name_or_path == str(tmp_path / "centered")
    opened = OpticalRetriever.from_pretrained(tmp_path / "centered", device="cpu")
    assert all(map(torch.equal, opened.encode_documents(TEXTS[:3]), centered.encode_documents(TEXTS[:3])))
    # A base that is centered already stays as it is, and can be made smaller.
    again = center_vectors(centered, TEXTS)
    own, others = (torch.cat(each.encode_documents(TEXTS[:3])) for each in (again, centered))
    assert torch.allclose(own, others, atol=1e-5)
    assert reduce_dimension(centered, TEXTS, 8).model.embedding_dim == 8
    with pytest.raises(ValueError, match="pass documents with text"):
        center_vectors(retriever, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        center_vectors(retriever, TEXTS, batch_size=-1)
