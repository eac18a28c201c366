import json
from dataclasses import replace

import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack, retriever_with, with_pack
from peft import LoraConfig
from tiny import tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.bitext import Dictionary
from hf_optical.languages import add_adapter, languages, set_strength, strength_of
from hf_optical.languages.strength import check_strength, strength_of_layers
from hf_optical.retrieval import TokenVectors, strength_scores
from hf_optical.retrieval.reader import LanguageReader
from hf_optical.retrieval.tuning import choose_strength


def scaled(pack, factor_of):
    """The pack with the second matrix of every adapter multiplied by the factor of its module's path."""
    weights = {
        name: weight * factor_of(name) if ".lora_B" in name or "lora_embedding_B" in name else weight
        for name, weight in pack.weights.items()
    }
    return replace(pack, weights=weights)


@pytest.mark.parametrize(("architecture", "words"), [("bert", []), ("modernbert", WORDS), ("distilbert", WORDS)])
def test_strength_scales_the_adapter_and_leaves_the_new_words(architecture, words, tmp_path):
    folder = tiny_checkpoint(tmp_path, architecture, projection_dim=16)
    pack = make_pack(folder, "sw", seed=1, words=words)
    retriever = retriever_with(folder, {"sw": pack})
    full = retriever.encode_queries(TEXTS)
    for strength in (0.0, 2.0):
        retriever.set_strength("sw", strength)
        expected = with_pack(folder, scaled(pack, lambda name, factor=strength: factor), TEXTS, "query")
        assert_equal(retriever.encode_queries(TEXTS), expected, 1e-5)
    assert max((a - b).abs().max() for a, b in zip(expected, full, strict=True)) > 1e-2
    # The two layers of the tiny models, the first of which includes the word embeddings.
    retriever.set_strength("sw", (0.25, 1.5))
    expected = with_pack(folder, scaled(pack, lambda name: 1.5 if ".1." in name else 0.25), TEXTS, "query")
    assert_equal(retriever.encode_queries(TEXTS), expected, 1e-5)
    retriever.set_strength("sw", 1)
    assert_equal(retriever.encode_queries(TEXTS), full)


def test_strength_is_linear_in_the_depth():
    paths = ["embeddings.word", *(f"encoder.layer.{i}.attention.query" for i in (2, 4, 6)), "final"]
    assert list(strength_of_layers((0.2, 1.0), paths).values()) == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert list(strength_of_layers(0.5, paths).values()) == [0.5] * 5
    assert check_strength([0.5, 0.5]) == 0.5 and check_strength([0, 1]) == (0.0, 1.0)


def test_strength_outside_zero_to_two_is_refused(tiny):
    for wrong in (-0.1, 2.1, float("nan"), "1", True, None, [1], (0.5, 3), (0.1, 0.2, 0.3)):
        with pytest.raises(ValueError, match="^strength must be .*2"):
            check_strength(wrong)
    pack, retriever = make_pack(tiny, "sw", seed=1), OpticalRetriever.from_pretrained(tiny, device="cpu")
    with pytest.raises(ValueError, match="^strength must be .*2"):
        replace(pack, strength=2.1).attach(retriever.model)
    assert languages(retriever.model) == []
    retriever.add_language("sw", pack)
    with pytest.raises(ValueError, match="^strength must be .*2"):
        retriever.set_strength("sw", (0.5, 3))


def test_strength_of_a_pack_that_is_not_open_is_a_key_error(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    for call in (lambda: retriever.set_strength("sw", 0.5), lambda: retriever.strength_of("sw")):
        with pytest.raises(KeyError, match="no pack for language 'sw' is open"):
            call()


def test_dora_is_refused_a_strength(tiny):
    model = OpticalModel.from_pretrained(tiny)
    add_adapter(model, "sw", LoraConfig(r=2, target_modules=["query"], use_dora=True))
    set_strength(model, "sw", 1.0)
    with pytest.raises(ValueError, match="strength must be 1 for 'sw', whose adapter uses DoRA"):
        set_strength(model, "sw", 0.5)


def test_saved_packs_keep_raw_weights_and_the_strength(tiny, tmp_path):
    pack = make_pack(tiny, "sw", seed=1, words=WORDS)
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("sw", pack, strength=0.5)
    retriever.add_language("ha", make_pack(tiny, "ha", seed=2))
    retriever.set_strength("ha", (0.25, 1.0))
    retriever.save_pretrained(tmp_path)
    again = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
    assert (again.strength_of("sw"), again.strength_of("ha")) == (0.5, (0.25, 1.0))
    for language in ("sw", "ha"):
        found, expected = (each.encode_queries(TEXTS, language=language) for each in (again, retriever))
        assert_equal(found, expected)

    saved = LanguagePack.from_pretrained(tmp_path / "language_packs" / "sw")
    assert saved.strength == LanguagePack.from_model(retriever.model, "sw").strength == 0.5
    assert all(torch.equal(saved.weights[name], weight) for name, weight in pack.weights.items())
    retriever.remove_language("sw")
    retriever.add_language("sw", pack)
    assert retriever.strength_of("sw") == 1.0

    file = tmp_path / "language_packs" / "sw" / "language_pack.json"
    stored = json.loads(file.read_text())
    for strength, problem in ((3, "between 0 and 2"), ([1, 2, 3], "a pair"), (True, "a number"), ("1", "strength")):
        file.write_text(json.dumps({**stored, "strength": strength}))
        with pytest.raises(OSError, match=f"language_pack.json.*{problem}"):
            LanguagePack.from_pretrained(file.parent)
    del stored["strength"]  # written before packs had a strength
    file.write_text(json.dumps(stored))
    assert LanguagePack.from_pretrained(file.parent).strength == 1.0


def test_merging_applies_the_strength(tiny):
    pack = make_pack(tiny, "sw", seed=1, words=WORDS)
    retriever = retriever_with(tiny, {"sw": pack})
    for strength in (0.5, (0.25, 1.5)):
        retriever.set_strength("sw", strength)
        merged = retriever.merge("sw")
        assert_equal(merged.encode_queries(TEXTS), retriever.encode_queries(TEXTS), 1e-5)
        assert retriever.strength_of("sw") == strength
    # Nothing of it stays with the merged model.
    add_adapter(merged.model, "sw", LoraConfig(r=2, target_modules="all-linear"))
    assert strength_of(merged.model, "sw") == 1.0


def test_all_batches_of_a_call_have_one_strength(tiny):
    retriever = retriever_with(tiny, {"sw": make_pack(tiny, "sw", seed=1)})
    inputs = retriever.processor_of("sw").queries(TEXTS)
    reader = LanguageReader(retriever.model, "sw", retriever.processor_of)
    with torch.no_grad():
        before = reader(**inputs).embeddings
        retriever.set_strength("sw", 0.5)  # as another thread may, between two batches
        assert torch.equal(reader(**inputs).embeddings, before)
        assert retriever.strength_of("sw") == 0.5
        with_all = LanguageReader(retriever.model, "sw", retriever.processor_of)(**inputs).embeddings
        assert not torch.equal(with_all, before)


def test_documents_to_find_are_encoded_by_the_teacher_of_the_pack(tiny, tmp_path):
    teacher = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "teacher", seed=5), device="cpu")
    details = {"teacher": str(tmp_path / "teacher"), "teacher_fingerprint": teacher.model.fingerprint()}
    retriever = retriever_with(tiny, {"sw": replace(make_pack(tiny, "sw", seed=1), details=details)})
    corpus, dictionary = ["rain fell all night", "bread is baked"], Dictionary({"rain": [("zorb", 1.0)]})
    options = {"strengths": [1.0], "dictionary": dictionary}
    vectors = TokenVectors.from_list(teacher.encode_documents(corpus))
    expected = strength_scores(retriever, "sw", corpus, document_vectors=vectors, **options)[1.0]
    assert torch.allclose(strength_scores(retriever, "sw", corpus, **options)[1.0], expected, atol=1e-5)


def test_tuned_strength_is_the_last_near_the_best():
    means = {0.0: -1.0, 0.25: -0.5, 0.5: -0.53, 0.75: -0.519, 1.0: -0.521}
    assert choose_strength({strength: torch.tensor([mean - 1, mean + 1]) for strength, mean in means.items()}) == 0.75


def test_scores_are_log_probabilities_of_known_documents(tiny):
    pack = make_pack(tiny, "sw", seed=1, words=["zorb", "mzuqo"])
    retriever = retriever_with(tiny, {"sw": pack})
    corpus = ["rain fell all night", "bread is baked", "rivers flow", " "]
    dictionary = Dictionary({"rain": [("zorb", 1.0)], "bread": [("mzuqo", 1.0)]})
    scores = strength_scores(retriever, "sw", corpus, strengths=[0.5, 1.0], dictionary=dictionary)
    assert list(scores) == [0.5, 1.0] and all(own.shape == (3,) and (own < 0).all() for own in scores.values())
    assert not torch.equal(scores[0.5], scores[1.0]) and retriever.strength_of("sw") == 1.0
    vectors = TokenVectors.from_list(retriever.encode_documents(corpus))
    again = strength_scores(
        retriever, "sw", corpus, strengths=[0.5, 1.0], dictionary=dictionary, document_vectors=vectors
    )
    assert all(torch.allclose(scores[strength], again[strength], atol=1e-5) for strength in scores)
    assert retriever.tune_strength("sw", corpus, dictionary=dictionary) == retriever.strength_of("sw")
    for corpus, words in ((["one", " "], dictionary), (["", " "], dictionary), (["rain fell", "bread"], None)):
        with pytest.raises(ValueError, match="corpus"):
            strength_scores(retriever_with(tiny, {"sw": pack}), "sw", corpus, dictionary=words)
    without_words = retriever_with(tiny, {"sw": make_pack(tiny, "sw", seed=1)})
    with pytest.raises(ValueError, match="the pack for 'sw' has no new words to make queries of the corpus from"):
        without_words.tune_strength("sw", ["rain fell", "bread"])
    assert without_words.strength_of("sw") == 1.0


def test_new_words_of_the_pack_translate_rather_than_a_dictionary(tiny):
    pack = make_pack(tiny, "sw", seed=1, words=["zorb", "mzuqo"])
    processor, model = OpticalProcessor.from_pretrained(tiny), OpticalModel.from_pretrained(tiny)
    ids = [processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("water", "market")]
    rows = model.get_input_embeddings().weight.detach()[ids]
    retriever = retriever_with(tiny, {"sw": replace(pack, vocabulary=replace(pack.vocabulary, rows=rows))})
    corpus = ["the water is cold", "the market is open"]
    scores = [
        strength_scores(retriever, "sw", corpus, dictionary=dictionary)
        for dictionary in (None, Dictionary({"the": [("mzuqo", 1.0)]}))
    ]
    assert all(torch.equal(scores[0][strength], scores[1][strength]) for strength in scores[0])
