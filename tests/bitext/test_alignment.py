from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import pytest
from tiny import THAI, demo_pairs, tiny_tokenizer

from hf_optical.bitext import alignment
from hf_optical.bitext.alignment import learn_lexicon, word_splitter


def naive_agreement(words, tokens, iterations):
    """Model 1 both ways in plain loops, counted by the product of both posteriors; the empty word is `None`."""
    forth, back = defaultdict(lambda: 1.0), defaultdict(lambda: 1.0)
    for _ in range(iterations):
        counts, empty = defaultdict(float), (defaultdict(float), defaultdict(float))
        for sentence, translation in zip(words, tokens, strict=True):
            for token in translation:
                empty[0][token] += forth[None, token] / sum(forth[word, token] for word in [*sentence, None])
            for word in sentence:
                empty[1][word] += back[None, word] / sum(back[token, word] for token in [*translation, None])
                for token in translation:
                    forwards = forth[word, token] / sum(forth[other, token] for other in [*sentence, None])
                    backwards = back[token, word] / sum(back[other, word] for other in [*translation, None])
                    counts[word, token] += forwards * backwards
        forth, back = defaultdict(float), defaultdict(float)
        for (word, token), count in counts.items():
            forth[word, token] = count / sum(each for key, each in counts.items() if key[0] == word)
            back[token, word] = count / sum(each for key, each in counts.items() if key[1] == token)
        for table, own in ((forth, empty[0]), (back, empty[1])):
            table.update({(None, item): count / sum(own.values()) for item, count in own.items()})
    return forth, back


def test_lexicon_equals_naive_agreement():
    rng = np.random.default_rng(0)
    words = [[f"w{i}" for i in rng.integers(0, 12, rng.integers(1, 7))] for _ in range(40)]
    tokens = [list(rng.integers(100, 115, rng.integers(1, 7))) for _ in range(40)]
    forth, back = naive_agreement(words, tokens, 4)
    lexicon = learn_lexicon(words, tokens, iterations=4, min_probability=0.0)
    table = lexicon.probabilities.toarray()
    for i, word in enumerate(lexicon.words):
        means = [np.sqrt(forth[word, token] * back[token, word]) for token in lexicon.targets]
        assert table[i] == pytest.approx(np.array(means) / sum(means), abs=1e-9)


def test_translations_of_frequent_words():
    tokenizer = tiny_tokenizer("wordpiece")
    split, pairs = word_splitter(tokenizer), demo_pairs()
    lexicon = learn_lexicon(
        [split(pair["sw"]) for pair in pairs],
        tokenizer([pair["en"] for pair in pairs], add_special_tokens=False)["input_ids"],
    )
    assert lexicon.counts == sorted(lexicon.counts, reverse=True)
    for swahili, english in {"maji": "water", "watoto": "children", "soko": "market"}.items():
        if swahili in lexicon.words and english in tokenizer.get_vocab():
            best = [tokenizer.convert_ids_to_tokens(token) for token, _ in lexicon.top(swahili, 3)]
            assert english in best, (swahili, best)


def test_rare_words_do_not_explain_frequent_targets():
    # "rare" occurs once together with "the", which translates "frequent" a hundred times.
    words = [["frequent", "other"]] * 50 + [["frequent"]] * 50 + [["frequent", "rare"]]
    targets = [["the", "dog"]] * 50 + [["the"]] * 50 + [["the", "cat"]]
    lexicon = learn_lexicon(words, targets)
    assert lexicon.top("rare", 1)[0][0] == "cat" and lexicon.top("frequent", 1)[0][0] == "the"
    # Model 1 in one direction gives .995.
    assert dict(lexicon.top("rare"))["cat"] > 0.999
    assert lexicon.top("never seen") == []


def test_save_muse(tmp_path):
    pairs = demo_pairs()
    split = word_splitter(tiny_tokenizer("wordpiece"))
    lexicon = learn_lexicon([split(pair["en"]) for pair in pairs], [split(pair["sw"]) for pair in pairs])
    lines = lexicon.save_muse(tmp_path / "en-sw.txt", translations=2, min_probability=0.2)
    rows = [line.split(" ") for line in (tmp_path / "en-sw.txt").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == lines > 100 and all(len(row) == 2 for row in rows)
    for english, swahili in rows[:50]:
        assert dict(lexicon.top(english, 2))[swahili] >= 0.2
    with pytest.raises(ValueError, match="not from token ids"):
        learn_lexicon([["a"]], [[7]]).save_muse(tmp_path / "ids.txt")


@pytest.mark.slow
def test_ten_thousand_pairs_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    # Word frequencies follow Zipf's law, as in natural language.
    words = [[f"w{i}" for i in rng.zipf(1.3, 20) % 20_000] for _ in range(10_000)]
    tokens = [list(rng.zipf(1.3, 25) % 10_000) for _ in range(10_000)]
    start = time.process_time()
    learn_lexicon(words, tokens)
    assert time.process_time() - start < 60


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_words_are_split_at_spaces_and_punctuation_or_into_frequent_pieces(kind):
    tokenizer = tiny_tokenizer(kind)
    uncut = word_splitter(tokenizer)
    assert [word.lower() for word in uncut("Maji, 3 (watoto)  sokoni!")] == ["maji", "watoto", "sokoni"]
    assert uncut("") == [] and uncut("3 , !") == []
    # Scripts without spaces.
    split = word_splitter(tokenizer, THAI)
    for text in [*THAI, "maji ครูดื่มน้ำ, maji"]:
        assert "".join(split(text)) == "".join(uncut(text))
    pieces = [split(text) for text in THAI]
    assert len({piece for text in pieces for piece in text}) < 0.7 * sum(map(len, pieces))
    assert split("Leta maji, tafadhali") == uncut("Leta maji, tafadhali")


def test_lexicon_from_unsuitable_pairs():
    with pytest.raises(ValueError, match="shorter"):
        learn_lexicon([["a"]], [])
    with pytest.raises(ValueError, match="no words to align"):
        learn_lexicon([[]], [[]])


@pytest.mark.promise(
    "Text",
    "Word alignment takes bounded memory: with thousands of long texts, fewer words of each are aligned. Fifty "
    "thousand ordinary pairs are aligned in full.",
)
def test_many_long_texts_are_cut_to_fit_into_memory(monkeypatch):
    monkeypatch.setattr(alignment, "_MOST_CELLS", 1000)
    words, targets = [["w"] * 30, ["w"] * 3] * 5, [["t"] * 40, ["t"] * 30] * 5
    longest = alignment._longest(words, targets)
    read = []
    monkeypatch.setattr(
        alignment, "_model_1", lambda *given, own=alignment._model_1: read.append(given) or own(*given)
    )
    learn_lexicon(words, targets)
    cells = [sum(len(one) * len(other) for one, other in zip(*sides[:2], strict=True)) for sides in read]
    assert longest == max(map(len, read[0][0])) == max(map(len, read[0][1])) == 12 and 800 < max(cells) <= 1000
    # At least one item, however many pairs there are, and all items if they fit.
    assert alignment._longest([["w"] * 9] * 9999, [["t"] * 9] * 9999) == 1
    assert alignment._longest([["w"] * 20], [["t"] * 30]) == alignment._longest([], []) == 512


def test_fifty_thousand_ordinary_pairs_are_not_cut():
    assert alignment._longest([["w"] * 20] * 50_000, [["t"] * 30] * 50_000) == 512
    assert alignment._longest([["w"] * 100] * 50_000, [["t"] * 100] * 50_000) == 31
