from __future__ import annotations

import pytest
import torch
from packs import WORDS

from hf_optical.bitext import inverse_document_frequency
from hf_optical.plots import match_words


QUESTION = f"{WORDS[1]} maji baridi?"
PASSAGES = ["The child drinks cold water, and bread.", "Rice swells when it absorbs water."]


def test_matches_have_the_maximum_similarity_per_word(retriever):
    found = match_words(retriever, QUESTION, PASSAGES, "sw")

    tokenizer = retriever.processor_of("sw").tokenizer
    question = tokenizer([QUESTION], add_special_tokens=False)
    (vectors,) = retriever.encode_queries([QUESTION], language="sw")
    for passage, matches in zip(PASSAGES, found, strict=True):
        read = retriever.processor.tokenizer([passage], add_special_tokens=False)
        kept = retriever.processor.documents([passage])["token_mask"][0, 1:-1].tolist()
        words = [word for word, here in zip(read.word_ids(0), kept, strict=True) if here]
        (documents,) = retriever.encode_documents([passage])
        assert [match.word for match in matches] == [WORDS[1], "maji", "baridi", "?"]
        for number, match in enumerate(matches):
            own = [i for i, word in enumerate(question.word_ids(0)) if word == number]
            scores = {}
            for word in set(words):
                places = [j for j, other in enumerate(words) if other == word]
                best = [max(float(vectors[1 + i] @ documents[1 + j]) for j in places) for i in own]
                scores[word] = sum(best) / len(best)
            best = max(scores, key=scores.__getitem__)
            assert match.similarity == pytest.approx(scores[best], abs=1e-5)
            assert read.char_to_word(0, match.start) == best and match.weight == 1.0


def test_weight_is_the_mean_over_tokens_of_the_passage_word(retriever):
    retriever.set_language("base")
    weights = inverse_document_frequency(retriever.processor, PASSAGES)
    (matches,) = match_words(retriever, "water bread", PASSAGES[:1], passage_weights=weights)
    for match in matches:
        ids = retriever.processor.tokenizer(PASSAGES[0][match.start : match.stop], add_special_tokens=False)
        assert match.weight == pytest.approx(float(weights[ids["input_ids"]].mean()), abs=1e-6)
    plain = match_words(retriever, "water bread", PASSAGES[:1])
    assert [match[:4] for match in matches] == [match[:4] for match in plain[0]]


@pytest.mark.promise("Text", "A passage without words has no matches and does not affect other passages.")
def test_passage_without_words_has_no_matches(retriever):
    first, dots, blank, last = match_words(retriever, QUESTION, [PASSAGES[0], "...", " \n", PASSAGES[1]], "sw")
    assert [first, last] == match_words(retriever, QUESTION, PASSAGES, "sw") and dots == blank == []


def test_gradient_mode_and_active_language_are_kept(retriever):
    retriever.set_language("sw")
    match_words(retriever, "maji", PASSAGES, "sw")
    assert retriever.language == "sw" and torch.is_grad_enabled()
    with pytest.raises(ValueError, match="no word"):
        match_words(retriever, " ", PASSAGES)
