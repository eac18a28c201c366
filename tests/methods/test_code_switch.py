from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from training.conftest import TRIPLES

from hf_optical import OpticalProcessor
from hf_optical.bitext import CodeSwitcher, learn_dictionary
from hf_optical.methods import CodeSwitchedRanking


def ranking_reader(trainer, language="sw") -> CodeSwitchedRanking:
    """Return what reads the texts to rank."""
    return next(each for each in trainer.data_collator.readers[language] if isinstance(each, CodeSwitchedRanking))


def naive_ranking(
    student, student_processor, teacher, teacher_processor, queries, switched, documents, read_documents, relevant=None
):
    """
    Compute the ranking loss one query at a time, by loops over tokens.

    It is the KL divergence of the distributions over documents or, with `relevant` ones, their cross entropy.
    """

    def vectors(model, processor, text, role):
        with torch.no_grad():
            batch = processor([text], role)
            return model(**batch).embeddings[0][batch["token_mask"][0]].double()

    def distribution(query, found):
        scores = [sum((found_one @ token).max() for token in query) / len(query) for found_one in found]
        return torch.softmax(torch.stack(scores) / 0.2, 0)

    by_teacher = [vectors(teacher, teacher_processor, text, "document") for text in documents]
    by_student = [vectors(student, student_processor, text, "document") for text in read_documents or []]
    losses = []
    for i, (query, other) in enumerate(zip(queries, switched, strict=True)):
        own = distribution(vectors(student, student_processor, other, "query"), by_student or by_teacher)
        if relevant is not None:
            losses.append(-own[documents.index(relevant[i])].log().item())
        else:
            target = distribution(vectors(teacher, teacher_processor, query, "query"), by_teacher)
            losses.append((target * (target.log() - own.log())).sum().item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("side", ["query", "document"])
def test_ranking_loss_equals_a_plain_loop_over_tokens(make_trainer, pairs, held_out, side):
    trainer = make_trainer(
        method="code_switch", switch_side=side, switch_probability=0.7, per_device_eval_batch_size=64, seed=3
    )
    processor = trainer.processing_class
    dictionary = learn_dictionary(pairs, processor.tokenizer, "sw")
    english = [pair["en"] for pair in held_out["translation"]]
    queries = [*map(CodeSwitcher(dictionary, 0.7, seed=3), english)]
    documents = [*map(CodeSwitcher(dictionary, 0.7, seed="3 document"), english)]
    assert sum(map(str.__eq__, queries, documents)) < len(english) / 2, "queries must differ from the documents"
    assert queries != english != documents
    reader = OpticalProcessor(processor.tokenizer, **processor.roles)
    expected = naive_ranking(
        trainer.model.eval(),
        reader,
        trainer.teacher,
        trainer.teacher_processor,
        queries=english,
        switched=english if side == "document" else queries,
        documents=english,
        read_documents=None if side == "query" else documents,
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_repeated_documents_are_ranked_once_with_labels(make_trainer):
    """One of three triples is twice in the batch, and the positive of one is a negative of another."""
    rows = [*TRIPLES[:2], {**TRIPLES[2], "negatives": ["a school", TRIPLES[0]["positive"]]}]
    trainer = make_trainer(
        method="code_switch",
        ranking_target="labels",
        switch_side="both",
        triples=Dataset.from_list(rows),
        per_device_train_batch_size=4,
    )
    batch = [trainer.train_dataset[i] for i in range(4)]
    relevant = [row["positive"] for row in batch]
    documents = list(dict.fromkeys([*relevant, *(text for row in batch for text in row["negatives"])]))
    assert len(documents) < 4 + sum(len(row["negatives"]) for row in batch) and len(set(relevant)) == 3
    ranking = ranking_reader(trainer)
    expected = naive_ranking(
        trainer.model.eval(),
        ranking.processor,
        trainer.teacher,
        trainer.teacher_processor,
        queries=[row["query"] for row in batch],
        switched=[ranking.switch_query(row["query"]) for row in batch],
        documents=documents,
        read_documents=[*map(ranking.switch_document, documents)],
        relevant=relevant,
    )
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_triples_replace_the_sentences_to_rank(make_trainer, triples):
    trainer = make_trainer(method="code_switch", triples=triples)
    rows = [trainer.train_dataset[i] for i in range(5)]
    batch = trainer.data_collator(rows)
    documents = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
    expected = trainer.teacher_processor.documents(documents)
    assert torch.equal(batch["teacher"]["documents"]["input_ids"], expected["input_ids"])
    assert sorted(row["query"] for row in trainer.train_dataset.select(range(3))) == sorted(
        row["query"] for row in TRIPLES
    ), "every triple must be used once before one is repeated"
    trainer.train()
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


def test_dictionary_of_other_languages_raises(make_trainer, tmp_path):
    (tmp_path / "fi-sv.txt").write_text("omena äpple\ntalo hus\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the dictionary for 'sw' contains no word of the 'en' texts"):
        make_trainer(method="hybrid", dictionary=[str(tmp_path / "fi-sv.txt")])


def test_every_language_is_switched_by_its_own_dictionary(make_two, tmp_path):
    """And each in its own direction."""
    (tmp_path / "en-sw.txt").write_text("the ile\nis ni\n", encoding="utf-8")
    (tmp_path / "lo-en.txt").write_text("eli the\nin is\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("en-sw.txt", "lo-en.txt")]
    trainer = make_two(method="code_switch", dictionary=files, switch_probability=1.0, switch_side="both")
    for code, file, expected in (("sw", "en-sw.txt", "ile bus ni late"), ("lo", "lo-en.txt", "eli bus in late")):
        ranking = ranking_reader(trainer, code)
        assert ranking.switch_query("the bus is late") == ranking.switch_document("the bus is late") == expected
        assert trainer.language_pack(code).details["settings"]["dictionary"] == file


def test_words_that_are_not_switched_are_not_respelled(make_trainer):
    trainer = make_trainer(method="code_switch", max_steps=1)
    assert trainer.processing_class.nearest_words is not None
    assert ranking_reader(trainer).processor.nearest_words is None
