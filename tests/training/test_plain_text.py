"""Plain text of the language next to sentence pairs or a dictionary."""

from __future__ import annotations

import logging

import pytest

from hf_optical import LanguagePack
from hf_optical.errors import DataError
from hf_optical.training.plain_text import log_unknown_words


def test_words_of_the_text_repair_typing_errors(make_trainer, held_out, pairs, tmp_path, caplog):
    texts = [row["translation"]["sw"] for row in held_out]
    trainer = make_trainer(monolingual_texts=texts)
    assert "has only" in caplog.text and "no new word can be learned" in caplog.text
    trainer.details = {"sw": {"monolingual": "news.txt", "monolingual_license": "cc-by-4.0", "license": "mit"}}
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    known = LanguagePack.from_pretrained(tmp_path / "run").known_words["language"]
    counted = make_trainer().processors["sw"].known_words["language"]
    new = {word for text in texts for word in text.lower().split() if word.isalpha()} - counted.keys()
    assert new and new <= known.keys() and all(known[word] >= count for word, count in counted.items())
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    words = trainer.run_record.card_details(["sw"], 0)["text_words"]
    assert f"- **Plain text:** {words} words in Swahili (sw) from `news.txt`, licence `cc-by-4.0`" in card
    assert "Plain text: `cc-by-4.0`" in card.partition("## Licence")[2]


def test_text_in_another_language_is_refused(make_trainer, held_out):
    with pytest.raises(DataError, match="the plain text for 'sw' must be in that language, but .* words of 'en'"):
        make_trainer(monolingual_texts=[row["translation"]["en"] for row in held_out])


def test_question_words_without_a_row_are_logged(make_trainer, evaluator, caplog):
    trainer = make_trainer()
    with caplog.at_level(logging.INFO):
        log_unknown_words(evaluator, "sw", trainer.base_processor, trainer.processors["sw"])
    assert "Words of the sw questions without a row: " in caplog.text


def test_text_without_new_words_is_refused(make_trainer, held_out):
    with pytest.raises(ValueError, match="plain text .* new_words=0 adds none; leave it out"):
        make_trainer(monolingual_texts=[row["translation"]["sw"] for row in held_out], new_words=0)


def test_text_without_pairs_or_dictionary_is_refused(make_trainer):
    options = {"train_dataset": None, "eval_dataset": None}
    with pytest.raises(ValueError, match="monolingual_texts in 'sw' must come with sentence pairs or a dictionary"):
        make_trainer(**options, monolingual_texts=["Maji ni uhai."])
    with pytest.raises(TypeError, match="monolingual_texts must be a list of strings, got one string"):
        make_trainer(monolingual_texts="news.txt")
