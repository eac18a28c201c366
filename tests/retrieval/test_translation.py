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


# Marian's tokenizer recommends another library, which it does without.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

SMALL = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 600, "init_std": 0.5},
}
# Room for the pieces, and for the languages' codes behind them.
SIZE = 512
SWAHILI = [pair["sw"] for pair in demo_pairs()[:5]]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A sentencepiece model of the embedded texts, and its pieces."""
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
    # No room is left: for an id behind its vocabulary the tokenizer asks the pieces, and fails.
    folder, found = pieces
    reserved = [f">>{i}<<" for i in range(SIZE - len(found) - 4)]
    file = vocabulary_file(folder, ["</s>", "<unk>", ">>ibo<<", *reserved, *found, "<pad>"])
    return MarianTokenizer(*[str(folder / "pieces.model")] * 2, file)


@pytest.fixture(scope="module", params=["m2m100", "nllb", "marian"])
def saved(request, pieces, tmp_path_factory):
    """A tiny model with random weights in a folder, with codes of two languages for it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = {"m2m100": m2m100, "nllb": nllb, "marian": marian}[request.param](pieces)
    if request.param == "marian":
        ends = {"eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id}
        config = MarianConfig(vocab_size=SIZE, decoder_start_token_id=tokenizer.pad_token_id, **ends, **SMALL)
        model = MarianMTModel(config)
        # As Marian's own models have it: padding begins a text and stands nowhere else.
        model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    else:
        model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=SIZE, **SMALL))
        # Random weights would often write codes, which are no text. Those asked for below may not be suppressed.
        words = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
        asked = tokenizer.convert_tokens_to_ids(["</s>", "__en__", "__ha__", "eng_Latn", "hau_Latn"])
        model.generation_config.suppress_tokens = sorted(set(range(SIZE)) - words - set(asked))
    # Real ones come with a length of their own.
    model.generation_config.max_length = 200
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    codes = {"m2m100": ("sw", "en"), "nllb": ("swh_Latn", "eng_Latn"), "marian": (None, "en")}[request.param]
    return folder, *codes


def literal(translator, text, source, target):
    """One text at a time, as the documentation of the models has it."""
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


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_say_what_the_model_says_of_each_text(saved, batch_size, caplog):
    folder, source, target = saved
    translator = Seq2SeqTranslator.from_pretrained(
        folder, source, target, device="cpu", batch_size=batch_size, num_beams=3, max_length=12
    )
    translations = translator(SWAHILI)
    assert len(set(translations)) > 2
    assert translations == [literal(translator, text, source, target) for text in SWAHILI]
    assert translator(["", SWAHILI[0], " \n"]) == ["", translations[0], ""]
    assert translator([]) == []
    assert "max_new_tokens" not in caplog.text


def test_both_languages_matter_and_translators_may_share_a_model(saved):
    folder, source, target = saved
    if source is None:  # A model of one pair.
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


def test_unknown_codes_are_named_with_those_alike(saved):
    folder, source, _ = saved
    if source is None:
        # Nothing is told a model of one pair, so nothing can be wrong.
        assert Seq2SeqTranslator.from_pretrained(folder, "swahili", "en").source_language is None
        return
    with pytest.raises(ValueError, match=r"source_language is None.*its codes are such as a.*, \.\.\."):
        Seq2SeqTranslator.from_pretrained(folder)
    right, wrong, alike = ("en", "eng_Latn", "en") if source == "sw" else ("eng_Latn", "en", "eng_Latn")
    with pytest.raises(ValueError, match=f"target_language is '{wrong}'.*such as {alike}$"):
        Seq2SeqTranslator.from_pretrained(folder, source, wrong)
    with pytest.raises(ValueError, match="source_language is 'sw-TZ'.*sw"):
        Seq2SeqTranslator.from_pretrained(folder, "sw-TZ", right)


def test_a_prefix_is_read_as_a_part_of_the_text(pieces):
    torch.manual_seed(0)
    tokenizer = marian(pieces)
    ends = {
        "eos_token_id": 0,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    model = MarianMTModel(MarianConfig(vocab_size=SIZE, **ends, **SMALL))
    plain, told = (
        Seq2SeqTranslator(model, tokenizer, prefix=prefix, num_beams=1, max_length=8) for prefix in ("", ">>ibo<< ")
    )
    assert told(SWAHILI) == plain([f">>ibo<< {text}" for text in SWAHILI]) != plain(SWAHILI)


def test_progress_and_wrong_arguments(pieces, tmp_path, capsys):
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
        with pytest.raises(ValueError, match=f"{name} is 0"):
            Seq2SeqTranslator(model, tokenizer, "sw", **{name: 0})
    with pytest.raises(OSError, match="nowhere"):
        Seq2SeqTranslator.from_pretrained(tmp_path / "nowhere", "sw")
    for translate in (translator, LexiconTranslator(Dictionary({"maji": [("water", 1)]}))):
        with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got None"):
            translate(["maji", None])
        with pytest.raises(TypeError, match="texts is of type NoneType; pass a list"):
            translate(None)
        with pytest.raises(DataError, match=r"texts\[1\] contains half a character"):
            translate(["maji", "maji \ud800"])


def test_word_by_word():
    translator = LexiconTranslator(Dictionary({"maji": [("rain", 1), ("water", 3)], "soko": [("market", 1)]}))
    assert translator(["Maji, soko?", "  hakuna ", ""]) == ["water, market?", "  hakuna ", ""]
    with pytest.raises(TypeError, match="one string"):
        translator("maji")
