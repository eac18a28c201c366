import copy
from dataclasses import replace

import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack, retriever_with
from tiny import tiny_checkpoint

from hf_optical import OpticalRetriever
from hf_optical.retrieval import apply_weights, frequency_weights, search
from hf_optical.retrieval.weights import WEIGHTS


COUNTS = {"kitxbu": 70, "mzuqo": 20, "rain": 9, "rare": 1}


@pytest.fixture(scope="module")
def weighing(tiny):
    pack = make_pack(tiny, "sw", seed=1, words=WORDS)
    return retriever_with(tiny, {"sw": replace(pack, known_words={"language": COUNTS})})


def scores_by_loops(queries, documents):
    return [[sum(max(float(q @ d) for d in document) for q in query) for document in documents] for query in queries]


def scores_of(queries, documents):
    rankings = [sorted(hits) for hits in search(queries, documents, len(documents))]
    return torch.tensor([[hit.score for hit in hits] for hits in rankings])


def test_weights_of_one_change_nothing(weighing):
    plain = weighing.encode_queries(TEXTS)
    assert_equal(weighing.encode_queries(TEXTS, weights=[torch.ones(len(own)) for own in plain]), plain)
    documents = weighing.encode_documents(TEXTS)
    ones = iter([[1.0] * len(own) for own in plain])
    assert weighing.search(TEXTS, documents, weights=ones) == weighing.search(TEXTS, documents)


def test_a_token_of_weight_two_counts_as_the_token_twice(weighing):
    plain, documents = weighing.encode_queries(TEXTS), weighing.encode_documents(TEXTS)
    generator = torch.Generator().manual_seed(0)
    times = [torch.randint(0, 4, (len(own),), generator=generator) for own in plain]
    repeated = [own.repeat_interleave(count, dim=0) for own, count in zip(plain, times, strict=True)]
    found = scores_of(weighing.encode_queries(TEXTS, weights=times), documents)
    torch.testing.assert_close(found, torch.tensor(scores_by_loops(repeated, documents)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
def test_tokens_have_the_weight_of_their_word(tmp_path, kind):
    """Tokens of words are found again from the tokens alone, joined to a text without spaces."""
    folder = tiny_checkpoint(tmp_path / kind, kind)
    pack = replace(make_pack(folder, "sw", seed=1, words=WORDS), known_words={"language": COUNTS})
    processor = retriever_with(folder, {"sw": pack}).processor_of("sw")
    processor.nearest_words = copy.copy(processor.nearest_words)
    processor.nearest_words.min_similarity = 2  # only the words themselves
    expected = {word: 1e-3 / (1e-3 + count / 100) for word, count in COUNTS.items()} | {"unseenword": 1.0, "?": 1.0}
    words = ["rain", "unseenword", "kitxbu", "?", "rain", "rare", "mzuqo"]
    (weights,) = frequency_weights(processor, [" ".join(words).replace(" ?", "?")])
    before, after = processor.frame("query")
    assert (weights[:before] == 1).all() and (weights[len(weights) - after :] == 1).all()
    ids = processor.queries([" ".join(words).replace(" ?", "?")])["input_ids"][0]
    assert len(ids) == len(weights)
    pieces = [processor.tokenizer.decode([token]).replace("##", "").strip() for token in ids.tolist()]
    inside = list(zip(pieces, weights.tolist(), strict=True))[before : len(pieces) - after]
    for word in words:
        text = ""
        while text != word:
            piece, weight = inside.pop(0)
            text += piece
            assert word.startswith(text) and (piece == "" or weight == pytest.approx(expected[word]))
    assert not inside


def test_nearest_word_has_a_weight_of_its_own(weighing):
    """The unknown word before it has the weight 1 in each of its tokens."""
    processor = weighing.processor_of("sw")
    assert processor.nearest_words("rain amzuqonini rain") == "rain amzuqonini mzuqo rain"
    pieces = len(processor.tokenizer.tokenize("amzuqonini"))
    rain, mzuqo = (1e-3 / (1e-3 + COUNTS[word] / 100) for word in ("rain", "mzuqo"))
    (vectors,) = weighing.encode_queries(["rain amzuqonini rain"], weights="idf")
    expected = torch.tensor([1.0, rain, *[1.0] * pieces, mzuqo, rain, 1.0])
    torch.testing.assert_close(vectors.norm(dim=1), expected, rtol=0, atol=1e-5)


def test_weights_do_not_depend_on_padding_and_batch(weighing):
    texts = [*TEXTS, "", "kitxbu " * 200]
    together = weighing.encode_queries(texts, weights="idf")
    for text, own in zip(texts, together, strict=True):
        (alone,) = weighing.encode_queries([text], weights="idf")
        assert alone.shape == own.shape and (alone - own).abs().max() < 1e-5
        (weights,) = frequency_weights(weighing.processor_of("sw"), [text])
        torch.testing.assert_close(own.norm(dim=1), weights, rtol=0, atol=1e-5)
    assert_equal(weighing.encode_queries(texts, weights="idf", batch_size=3), together, 1e-5)
    assert min(own.norm(dim=1).min() for own in together) < 0.01  # the commonest word
    assert weighing.encode_queries([], weights="idf") == []


def test_expansion_has_the_weight_one(tmp_path):
    folder = tiny_checkpoint(tmp_path / "base")
    pack = make_pack(folder, "sw", seed=1, words=WORDS, query_expansion=True, query_length=12)
    retriever = retriever_with(folder, {"sw": replace(pack, known_words={"language": COUNTS})})
    for text in ("kitxbu", "kitxbu " * 20):
        (vectors,) = retriever.encode_queries([text], weights="idf")
        words = min(text.count("kitxbu"), 10)
        common = [1e-3 / (1e-3 + 0.7)] * words
        expected = torch.tensor([1.0, *common, *[1.0] * (11 - words)])
        torch.testing.assert_close(vectors.norm(dim=1), expected, rtol=0, atol=1e-5)


def test_each_language_has_its_own_frequencies(tiny):
    packs = {
        code: replace(make_pack(tiny, code, seed=1, words=WORDS), known_words={"language": counts})
        for code, counts in (("sw", {"mzuqo": 1, "kitxbu": 9}), ("ha", {"mzuqo": 9, "kitxbu": 1}))
    }
    retriever = retriever_with(tiny, packs)
    sw, ha = retriever.encode_queries(["mzuqo"] * 2, language=["sw", "ha"], weights="idf")
    assert sw[1].norm() > 5 * ha[1].norm()
    with pytest.raises(ValueError, match="weights='idf' needs to know how often words occur"):
        retriever.encode_queries(["mzuqo"], language="base", weights="idf")
    retriever.learn_spelling(["rain and rain", "snow"])  # now the base knows words of the documents
    (base,) = retriever.encode_queries(["rain"], language="base", weights="idf")
    assert base[1:-1].norm(dim=1).max() == pytest.approx(1e-3 / (1e-3 + 0.5), abs=1e-5)
    again = retriever.encode_queries(["mzuqo"] * 2, language=["sw", "ha"], weights="idf")
    assert_equal(again, [sw, ha])


def test_wrong_weights_are_refused(weighing):
    plain = weighing.encode_queries(TEXTS[:2])
    ones = [torch.ones(len(own)) for own in plain]
    for weights, message in (
        (ones[:1], "weights must have one entry for each of the 2 queries, got 1"),
        ([ones[0], ones[1][:-1]], rf"weights\[1\] must have one entry for each of the {len(plain[1])} tokens"),
        ([-ones[0], ones[1]], r"weights\[0\] must be finite numbers from 0, got -1.0"),
        ([ones[0], ones[1] * torch.nan], r"weights\[1\] must be finite numbers from 0"),
        ("tfidf", "weights must be 'idf'.*got 'tfidf'"),
    ):
        with pytest.raises(ValueError, match=message):
            weighing.encode_queries(TEXTS[:2], weights=weights)
    with pytest.raises(ValueError, match="weights applies to texts"):
        weighing.search(plain, plain, weights="idf")
    with pytest.raises(ValueError, match="train it again"):
        OpticalRetriever(weighing.model, weighing.processor).encode_queries(TEXTS, language="base", weights="idf")
    assert WEIGHTS == ("idf",)
    with pytest.raises(ValueError, match=r"weights\[0\] must be finite numbers from 0, got inf"):
        apply_weights(plain[:1], [ones[0] * torch.inf])
