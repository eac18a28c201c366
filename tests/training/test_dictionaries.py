"""Packs of a dictionary, with sentence pairs and without."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_optical import LanguagePack, OpticalRetriever, OTDistillationTrainer
from hf_optical.errors import DataError
from hf_optical.languages.vocabulary import word_embedding
from hf_optical.training.data import read_english


WORDS = {"zabibu": ["bus", "the"], "mkoko": ["water"], "uzi mwekundu": ["lake"]}
TEXTS = ["The bus is late and nobody knows when it comes.", "We drink water near the lake in the morning."] * 3


@pytest.fixture
def dictionary(tmp_path):
    lines = [f"{word}\t{english}\n" for word, translations in WORDS.items() for english in translations]
    (tmp_path / "sw-en.txt").write_text("".join(lines), encoding="utf-8")
    return [str(tmp_path / "sw-en.txt")]


def rows_of(trainer):
    vocabulary = word_embedding(trainer.model).vocabulary("language_sw")
    return dict(zip(vocabulary.tokens, vocabulary.rows, strict=True))


def test_words_begin_as_the_mean_of_their_translations(make_trainer, dictionary, tiny):
    trainer = make_trainer(dictionary=dictionary, train_dataset=None, eval_dataset=None, student=tiny)
    rows, tokenizer = rows_of(trainer), trainer.base_processor.tokenizer
    assert rows.keys() == {"zabibu", "mkoko", "uzi", "mwekundu"}
    weight = word_embedding(trainer.model).weight
    for word, translations in (("zabibu", ["bus", "the"]), ("mkoko", ["water"]), ("uzi", ["lake"])):
        ids = tokenizer.convert_tokens_to_ids(translations)
        torch.testing.assert_close(rows[word], weight[ids].mean(0), msg=word)


def test_dictionary_alone_trains_on_switched_sentences(make_trainer, dictionary, evaluator, tmp_path):
    trainer = make_trainer(
        dictionary=dictionary,
        train_dataset=None,
        eval_dataset=None,
        english_texts=[f"{number}: {text}" for number, text in enumerate(TEXTS)],
        retrieval_evaluator=evaluator,
        switch_probability=1.0,
        num_train_epochs=2,
    )
    assert all("bus" not in row["sw"] and "water" not in row["sw"] for row in trainer.train_dataset["translation"])
    before = rows_of(trainer)["mkoko"]
    trainer.train()
    assert trainer.state.global_step > 0 and not torch.equal(before, rows_of(trainer)["mkoko"])
    assert "eval_map" in trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "4 entries of `sw-en.txt`" in card and "- **Sentences:** 5 in English" in card
    assert "Sentence pairs" not in card and "made from a dictionary" in card


def test_dictionary_without_texts_gives_an_untrained_pack(make_trainer, dictionary, evaluator, tmp_path, caplog):
    trainer = make_trainer(dictionary=dictionary, train_dataset=None, eval_dataset=None, retrieval_evaluator=evaluator)
    assert "no text to train on" in caplog.text
    before = rows_of(trainer)
    trainer.train()
    assert trainer.state.global_step == 0 and "eval_map" in trainer.evaluate()
    assert all(torch.equal(row, before[word]) for word, row in rows_of(trainer).items())
    trainer.save_model()
    assert LanguagePack.from_pretrained(tmp_path / "run").details["entries"] == 4
    OpticalRetriever.from_pretrained(tmp_path / "run").encode_queries(["zabibu mkoko"], language="sw")


def test_dictionary_joins_the_words_of_the_pairs(make_trainer, dictionary):
    alone, both = rows_of(make_trainer()), rows_of(make_trainer(dictionary=dictionary))
    assert both.keys() == alone.keys() | {"zabibu", "mkoko", "uzi", "mwekundu"}


def test_words_of_the_base_get_no_row(make_trainer, tmp_path, tiny, caplog):
    (tmp_path / "known.txt").write_text("bus\twater\nthe\tlake\n", encoding="utf-8")
    trainer = make_trainer(
        dictionary=[str(tmp_path / "known.txt")], train_dataset=None, eval_dataset=None, student=tiny
    )
    assert "The base knows every word of sw already; no words are added." in caplog.text
    assert trainer.processors["sw"].tokenizer.get_vocab() == trainer.base_processor.tokenizer.get_vocab()


def test_settings_of_the_caller_are_not_changed(make_trainer, dictionary, pairs):
    """They train nothing without texts, no dispatched batches with a stream, and for a number of epochs with pairs."""
    settings = []

    class Keeps(OTDistillationTrainer):
        def __init__(self, model, teacher, args, **kwargs):
            before = args.to_dict()
            super().__init__(model, teacher, args, **kwargs)
            settings.append((before, args.to_dict(), self.args.to_dict()))

    for options in (
        {"dictionary": dictionary, "train_dataset": None, "eval_dataset": None},
        {"train_dataset": pairs.to_iterable_dataset(), "max_steps": 1, "num_train_epochs": 3},
        {"num_train_epochs": None},
    ):
        make_trainer(Keeps, **options)
    for before, after, own in settings:
        assert before == after != own


def test_one_entry_is_not_held_out(make_trainer, tmp_path):
    (tmp_path / "one.txt").write_text("mkoko\twater\n", encoding="utf-8")
    trainer = make_trainer(dictionary=[str(tmp_path / "one.txt")], train_dataset=None, eval_dataset=None)
    assert len(trainer.train_dataset) == 1 and trainer.eval_dataset is None


def test_texts_without_sentences_are_named_and_words_of_a_string_refused(make_trainer, dictionary, caplog):
    options = {"dictionary": dictionary, "train_dataset": None, "eval_dataset": None}
    trainer = make_trainer(**options, english_texts=["A bus.", "Water!"])
    assert "None of the 2 English texts has a sentence of 30 to 399 characters" in caplog.text
    assert trainer.args.num_train_epochs == 0
    with pytest.raises(TypeError, match="english_texts must be a list of strings, got one string"):
        make_trainer(**options, english_texts="english.txt")
    with pytest.raises(ValueError, match="english_texts must come with sentence pairs or a dictionary"):
        make_trainer(train_dataset=None, english_texts=TEXTS)
    with pytest.raises(ValueError, match="english_texts has no use with switched_sentences=0"):
        make_trainer(**options, english_texts=TEXTS, switched_sentences=0)
    with pytest.raises(ValueError, match="english_texts has no sentence to switch words in"):
        make_trainer(**options, english_texts=["A bus."], new_words=0)


def test_english_file_without_a_column_of_texts_names_a_cure_that_training_has(tmp_path):
    (tmp_path / "archive.csv").write_text("body\nThe bus is late.\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'text', only body; call the column of the texts `text`"):
        read_english(tmp_path / "archive.csv")


@pytest.mark.parametrize("method", ["ot", "hybrid"])
def test_english_sentences_join_the_pairs(make_trainer, dictionary, pairs, held_out, tmp_path, method):
    """Their words are switched by what the pairs and the dictionary teach; nothing else of the run knows them."""
    trainer = make_trainer(
        method=method,
        dictionary=dictionary,
        train_dataset=pairs,
        eval_dataset=held_out,
        english_texts=[*TEXTS, "Zanzibars are warm."],
        switch_probability=1.0,
        num_train_epochs=1,
    )
    rows = trainer.train_dataset
    made = [row["translation"] for row in rows if row["switched"]]
    assert len(rows) == len(pairs) + len(made) and len(set(rows["index"])) == len(rows)
    assert [row["translation"]["en"] for row in rows][: len(pairs)] == [each["en"] for each in pairs["translation"]]
    # The dictionary adds words and phrases that the pairs do not have.
    assert all("uzi mwekundu" in row["sw"] for row in made if "lake" in row["en"])
    assert rows_of(trainer).keys() == rows_of(make_trainer(dictionary=dictionary, train_dataset=pairs)).keys()
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"- **Sentence pairs:** {len(pairs)}" in card and f"- **Sentences:** {len(made)} in English" in card


def test_dictionary_switches_words_where_none_are_added(make_trainer, dictionary, pairs):
    trainer = make_trainer(dictionary=dictionary, train_dataset=pairs, english_texts=TEXTS, new_words=0)
    assert any(row["switched"] and "uzi mwekundu" in row["translation"]["sw"] for row in trainer.train_dataset)
    trainer = make_trainer(
        dictionary=dictionary, train_dataset=None, eval_dataset=None, english_texts=TEXTS, new_words=0
    )
    trainer.train()
    assert trainer.state.global_step
    assert len(trainer.processors["sw"].tokenizer) == len(trainer.base_processor.tokenizer)


def test_switched_sentences_are_read_as_written(make_trainer, pairs):
    """An English word that stays is not read as a similar word of the new language, beside pairs or alone."""
    trainer = make_trainer(train_dataset=pairs, english_texts=TEXTS)
    rows, processor = trainer.train_dataset.to_list(), trainer.processors["sw"]
    word = next(iter(rows_of(trainer))) + "x"
    assert processor.nearest_words(f"{word}") != word
    translation = {"en": "a bus", "sw": f"{word} bus"}
    own, switched = ({**rows[0], "translation": translation, "switched": flag} for flag in (False, True))
    together, alone = trainer.data_collator([own, switched, own]), trainer.data_collator([switched])
    ids = alone["student"]["input_ids"][0]
    assert ids.tolist() == trainer.base_processor.as_written()([translation["sw"]], "query")["input_ids"][0].tolist()
    assert together["student"]["input_ids"][1, : len(ids)].tolist() == ids.tolist()
    assert together["student"]["input_ids"][0].tolist() != together["student"]["input_ids"][1].tolist()


def test_triples_join_switched_sentences(make_trainer, dictionary):
    triples = Dataset.from_list(
        [{"query": "Where is the bus?", "positive": "The bus is late.", "negatives": ["Water is wet."]}] * 2
    )
    options = {"method": "code_switch", "dictionary": dictionary, "triples": triples, "eval_dataset": None}
    trainer = make_trainer(**options, train_dataset=None, english_texts=TEXTS)
    assert {"query", "positive", "negatives"} <= {*trainer.train_dataset.column_names}
    trainer.train()
    alone = make_trainer(**options, train_dataset=None)
    alone.train()
    assert alone.state.global_step
    stream = trainer.train_dataset.to_iterable_dataset()
    with pytest.raises(ValueError, match="triples must come with sentence pairs of known number, not a stream"):
        make_trainer(**options | {"dictionary": None}, train_dataset=stream, max_steps=1)


def test_a_language_without_switched_sentences_keeps_its_pairs(make_trainer, two, two_held_out, caplog):
    """The other one's sentences stay marked, and columns of the caller stay."""
    pairs = {code: own.add_column("score", [0.5] * len(own)) for code, own in two.items()}
    texts = [f"The bus number {number} is late and nobody knows when it comes." for number in range(40)]
    options = {"language": ["sw", "lo"], "eval_dataset": two_held_out, "switch_probability": 1.0}
    trainer = make_trainer(train_dataset=pairs, english_texts=texts, **options)
    rows = trainer.train_dataset
    marked = [row["language"] for row in rows if row["switched"]]
    assert marked.count("sw") == 40 and {"score", "switched"} <= {*rows.column_names}
    alone = make_trainer(train_dataset=two, english_texts=["Zzz qqq xxx yyy vvv www zzz qqq."], **options)
    assert "No English sentence joins the pairs of sw" in caplog.text and not any(alone.train_dataset["switched"])
    made = {**two, "lo": two["lo"].add_column("switched", [True] * len(two["lo"]))}
    rows = make_trainer(train_dataset=made, **options).train_dataset
    assert all(row["switched"] == (row["language"] == "lo") for row in rows)


def test_dictionary_switches_words_if_the_pairs_teach_none(make_trainer, dictionary, pairs):
    # All these pairs are marked, so that none is aligned.
    own = pairs.select(range(1)).add_column("switched", [True])
    trainer = make_trainer(
        dictionary=dictionary, train_dataset=own, eval_dataset=None, english_texts=TEXTS, switch_probability=1.0
    )
    assert any(row["switched"] and "uzi mwekundu" in row["translation"]["sw"] for row in trainer.train_dataset)


def test_card_of_a_stream_with_a_dictionary_does_not_say_that_it_read_no_sentence(
    make_trainer, dictionary, pairs, tmp_path
):
    for stream in (None, pairs.to_iterable_dataset()):
        trainer = make_trainer(dictionary=dictionary, train_dataset=stream, eval_dataset=None, max_steps=1)
        trainer.create_model_card()
        card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
        assert ("without a sentence in" in card) == (stream is None)


def test_sentences_that_no_method_reads_do_not_join(make_trainer, pairs, triples):
    trainer = make_trainer(method="code_switch", train_dataset=pairs, triples=triples, english_texts=TEXTS)
    assert len(trainer.train_dataset) == len(pairs)
