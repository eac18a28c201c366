"""Packs that start from the pack of a related language."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny import tiny_checkpoint
from training.conftest import trainer_maker

from hf_optical import LanguagePack
from hf_optical.languages.vocabulary import word_embedding


@pytest.fixture(scope="module")
def relative(tiny, teacher_folder, pairs, held_out, tmp_path_factory) -> Path:
    """A trained Swahili pack."""
    folder = tmp_path_factory.mktemp("of") / "relative"
    trainer = trainer_maker(folder, tiny, teacher_folder, pairs, held_out)(max_steps=2)
    trainer.details = {"sw": {"license": "cc0-1.0", "bitext": "org/pairs", "bitext_license": "cc-by-4.0"}}
    trainer.train()
    trainer.save_model()
    return folder


def in_zu(pairs):
    """The pairs as those of another language, in which every second sentence is spelt in another way."""
    texts = [row["translation"] for row in pairs]
    rows = [{"en": text["en"], "zu": text["sw"] if i % 2 else text["sw"][::-1]} for i, text in enumerate(texts)]
    return Dataset.from_list([{"translation": row} for row in rows])


def rows_of(trainer, language):
    vocabulary = word_embedding(trainer.model).vocabulary(f"language_{language}")
    return dict(zip(vocabulary.tokens, vocabulary.rows, strict=True))


def test_untrained_run_has_the_adapter_of_the_relative(make_trainer, relative, pairs):
    options = {"language": "zu", "train_dataset": in_zu(pairs), "eval_dataset": None, "num_train_epochs": 0}
    own = rows_of(make_trainer(**options), "zu")
    trainer = make_trainer(**options, init_pack=str(relative))
    trainer.train()
    started, relative = trainer.language_pack(), LanguagePack.from_pretrained(relative)
    assert started.weights.keys() == relative.weights.keys() and started.language == "zu"
    assert all(torch.equal(weight, relative.weights[name]) for name, weight in started.weights.items())
    assert any(weight.any() for name, weight in started.weights.items() if "lora_B" in name)
    rows, theirs = (
        dict(zip(each.vocabulary.tokens, each.vocabulary.rows, strict=True)) for each in (started, relative)
    )
    shared = theirs.keys() - own.keys()
    # Words that the new pairs teach keep their own rows; the others are those of the relative.
    assert own.keys() & theirs.keys() and shared and rows.keys() == own.keys() | shared
    assert all(torch.equal(row, own.get(word, theirs.get(word))) for word, row in rows.items())


def test_card_names_the_relative_and_its_licences(make_trainer, relative, pairs, tmp_path):
    trainer = make_trainer(
        language="zu", train_dataset=in_zu(pairs), eval_dataset=None, init_pack=str(relative), max_steps=2
    )
    before = trainer.language_pack().weights
    trainer.train()
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.language_pack().weights.items())
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "**Start:** the pack relative for sw, licence cc0-1.0, made from org/pairs (licence cc-by-4.0)" in card
    assert str(relative.parent) not in card and str(tmp_path) not in card


def test_packs_that_do_not_fit_are_refused(make_trainer, relative, pairs, tmp_path):
    folder = str(relative)
    other = tiny_checkpoint(tmp_path / "other", "bert", seed=5)
    with pytest.raises(ValueError, match="the base of the pack for 'sw' must be"):
        make_trainer(student=other, init_pack=folder)
    with pytest.raises(ValueError, match="peft_config must be None.*init_pack"):
        make_trainer(init_pack=folder, peft_config=LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="init_pack must be None.*trains no pack"):
        make_trainer(init_pack=folder, train_all_weights=True)
    with pytest.raises(OSError, match="nowhere"):
        make_trainer(init_pack=str(tmp_path / "nowhere"))
    trainer = make_trainer(new_words=0, output_dir=str(tmp_path / "wordless"))
    trainer.save_model()
    with pytest.raises(ValueError, match="adapts them; pass new_words=0, or a pack with new words"):
        make_trainer(init_pack=str(tmp_path / "wordless"))
    make_trainer(init_pack=str(tmp_path / "wordless"), new_words=0)


def test_relative_with_dora_is_refused_with_a_strength_in_part(make_trainer, tmp_path, pairs):
    dora = make_trainer(
        peft_config=LoraConfig(target_modules=["query"], use_dora=True), output_dir=str(tmp_path / "dora")
    )
    dora.save_model()
    options = {
        "language": "zu",
        "train_dataset": in_zu(pairs),
        "eval_dataset": None,
        "init_pack": str(tmp_path / "dora"),
    }
    with pytest.raises(ValueError, match="strength must be .*DoRA cannot be applied in part"):
        make_trainer(**options, strength=0.5)
