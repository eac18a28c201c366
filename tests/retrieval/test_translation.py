from __future__ import annotations

import json

import pandas as pd
import pytest
import sentencepiece
import torch
from tiny import demo_pairs
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    NllbTokenizer,
)

from hf_optical.bitext import Dictionary
from hf_optical.errors import DataError
from hf_optical.retrieval import LexiconTranslator, Seq2SeqTranslator


# Marian's tokenizer recommends a library that it does not need.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

SMALL = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 600, "init_std": 0.5},
}
# Large enough for the pieces, followed by the language codes.
SIZE = 512
SWAHILI = [pair["sw"] for pair in demo_pairs()[:5]]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model trained on the demo texts, and its pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    texts = [text for pair in demo_pairs() for text in pair.values()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "pieces"),
        vocab_size=300,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))
    found = [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
    return folder, found


def vocabulary_file(folder, entries):
    file = folder / f"{len(entries)}-{entries[0].strip('<>/')}.json"
    file.write_text(json.dumps({entry: i for i, entry in enumerate(entries)}), encoding="utf-8")
    return str(file)


def m2m100(pieces):
    folder, found = pieces
    file = vocabulary_file(folder, ["<s>", "<pad>", "</s>", "<unk>", *found])
    return M2M100Tokenizer(file, str(folder / "pieces.model"))


def nllb(pieces):
    characters = sorted({character for piece in pieces[1] for character in piece})
    vocabulary = {entry: i for i, entry in enumerate(["<s>", "<pad>", "</s>", "<unk>", *characters])}
    return NllbTokenizer(vocab=vocabulary, merges=[])


def marian(pieces):
    # Fill the vocabulary: for an id beyond it, the tokenizer fails in the SentencePiece model.
    folder, found = pieces
    reserved = [f">>{i}<<" for i in range(SIZE - len(found) - 4)]
    file = vocabulary_file(folder, ["</s>", "<unk>", ">>ibo<<", *reserved, *found, "<pad>"])
    return MarianTokenizer(*[str(folder / "pieces.model")] * 2, file)


@pytest.fixture(scope="module", params=["m2m100", "nllb", "marian"])
def saved(request, pieces, tmp_path_factory):
    """The folder of a tiny model with random weights, and two of its language codes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = {"m2m100": m2m100, "nllb": nllb, "marian": marian}[request.param](pieces)
    if request.param == "marian":
        ends = {"eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id}
        config = MarianConfig(vocab_size=SIZE, decoder_start_token_id=tokenizer.pad_token_id, **ends, **SMALL)
        model = MarianMTModel(config)
        # As in Marian's models, padding starts a text and occurs nowhere else.
        model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    else:
        model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=SIZE, **SMALL))
        # Random weights often generate codes, so suppress those that the tests do not use.
        words = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
        asked = tokenizer.convert_tokens_to_ids(["</s>", "__en__", "__ha__", "eng_Latn", "hau_Latn"])
        model.generation_config.suppress_tokens = sorted(set(range(SIZE)) - words - set(asked))
    # Real models set a length.
    model.generation_config.max_length = 200
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    codes = {"m2m100": ("sw", "en"), "nllb": ("swh_Latn", "eng_Latn"), "marian": (None, "en")}[request.param]
    return folder, *codes


def literal(translator, text, source, target):
    """Translate one text at a time, as the documentation of the models shows."""
    tokenizer, options = translator.tokenizer, {}
    if source is not None:
        tokenizer.src_lang = source
        options["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(
            f"__{target}__" if len(target) == 2 else target
        )
    inputs = tokenizer([text], return_tensors="pt")
    [ids] = translator.model.generate(**inputs, **options, num_beams=3, do_sample=False, max_length=12)
    if source is not None:
        assert ids[1] == options["forced_bos_token_id"] != tokenizer.unk_token_id
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_batched_translations_equal_single_ones(saved, caplog):
    folder, source, target = saved
    translator = Seq2SeqTranslator.from_pretrained(
        folder, source, target, device="cpu", batch_size=2, num_beams=3, max_length=12
    )
    translations = translator(SWAHILI)
    assert len(set(translations)) > 2
    assert translations == [literal(translator, text, source, target) for text in SWAHILI]
    assert translator(["", SWAHILI[0], " \n"]) == ["", translations[0], ""]
    assert translator([]) == []
    assert "max_new_tokens" not in caplog.text


def test_both_languages_matter_and_translators_can_share_a_model(saved):
    folder, source, target = saved
    if source is None:  # a model of a single pair
        return
    options = {"num_beams": 1, "max_length": 12}
    forth = Seq2SeqTranslator.from_pretrained(folder, source, target, device="cpu", **options)
    before = forth(SWAHILI)
    other_source = {"sw": "ha", "swh_Latn": "hau_Latn"}[source]
    for codes in ((other_source, target), (source, other_source)):
        other = Seq2SeqTranslator(forth.model, forth.tokenizer, *codes, **options)
        assert other(SWAHILI) != before
        assert forth(SWAHILI) == before
    assert forth.model.generation_config.forced_bos_token_id is None


def test_unknown_codes_are_refused_with_similar_ones(saved):
    folder, source, _ = saved
    if source is None:
        # A model of a single pair ignores the codes.
        assert Seq2SeqTranslator.from_pretrained(folder, "swahili", "en").source_language is None
        return
    with pytest.raises(ValueError, match=r"source_language must be a code .*such as a.*, \.\.\.; got None"):
        Seq2SeqTranslator.from_pretrained(folder)
    right, wrong, alike = ("en", "eng_Latn", "en") if source == "sw" else ("eng_Latn", "en", "eng_Latn")
    with pytest.raises(ValueError, match=f"target_language .*such as {alike}; got '{wrong}'$"):
        Seq2SeqTranslator.from_pretrained(folder, source, wrong)
    with pytest.raises(ValueError, match="source_language .*sw.*; got 'sw-TZ'"):
        Seq2SeqTranslator.from_pretrained(folder, "sw-TZ", right)


def test_prefix_is_part_of_the_text(pieces):
    torch.manual_seed(0)
    tokenizer = marian(pieces)
    ends = {
        "eos_token_id": 0,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    model = MarianMTModel(MarianConfig(vocab_size=SIZE, **ends, **SMALL))
    plain, prefixed = (
        Seq2SeqTranslator(model, tokenizer, prefix=prefix, num_beams=1, max_length=8) for prefix in ("", ">>ibo<< ")
    )
    assert prefixed(SWAHILI) == plain([f">>ibo<< {text}" for text in SWAHILI]) != plain(SWAHILI)


def test_progress_and_invalid_arguments(pieces, tmp_path, capsys):
    tokenizer = m2m100(pieces)
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=SIZE, **SMALL))
    Seq2SeqTranslator(model, tokenizer, "sw", num_beams=1, max_length=2, show_progress=True)(SWAHILI)
    assert "5/5" in capsys.readouterr().err
    translator = Seq2SeqTranslator(model, tokenizer, "sw", num_beams=1, max_length=2)
    translator(SWAHILI)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match="one string"):
        translator("maji")
    assert translator(iter(SWAHILI)) == translator(SWAHILI)
    assert translator(pd.Series(SWAHILI, index=range(len(SWAHILI), 0, -1))) == translator(SWAHILI)
    for name in ("batch_size", "num_beams", "max_length"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            Seq2SeqTranslator(model, tokenizer, "sw", **{name: 0})
    with pytest.raises(OSError, match="nowhere"):
        Seq2SeqTranslator.from_pretrained(tmp_path / "nowhere", "sw")
    for translate in (translator, LexiconTranslator(Dictionary({"maji": [("water", 1)]}))):
        with pytest.raises(TypeError, match=r"texts\[1\] .*None"):
            translate(["maji", None])
        with pytest.raises(TypeError, match="texts .*NoneType"):
            translate(None)
        with pytest.raises(DataError, match=r"texts\[1\] .* half a character"):
            translate(["maji", "maji \ud800"])


def test_lexicon_translation_replaces_known_words():
    translator = LexiconTranslator(Dictionary({"maji": [("rain", 1), ("water", 3)], "soko": [("market", 1)]}))
    assert translator(["Maji, soko?", "  hakuna ", ""]) == ["water, market?", "  hakuna ", ""]
    with pytest.raises(TypeError, match="one string"):
        translator("maji")
