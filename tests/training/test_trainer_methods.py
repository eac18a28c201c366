"""The methods that optimal transport is compared with, in the same trainer."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from tiny import weights

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor
from hf_optical.bitext import CodeSwitcher, learn_dictionary
from hf_optical.languages import activate
from hf_optical.losses import GreedyAlignmentLoss, SentenceMSELoss


METHODS = ["greedy", "sentence", "code_switch", "hybrid"]
TRIPLES = [
    {"query": "who sells coffee", "positive": "the farmer sells coffee", "negatives": ["the bus is late"]},
    {"query": "when does the bus come", "positive": "the bus comes at noon", "negatives": []},
    {"query": "where is the market", "positive": "the market is near the lake", "negatives": ["rain", "a school"]},
]


@pytest.fixture(scope="session")
def triples():
    return Dataset.from_list(TRIPLES)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_leaves_the_base_alone(make_trainer, tiny_model, method):
    trainer = make_trainer(method=method, num_train_epochs=5)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.model.fingerprint() == tiny_model.fingerprint()
    assert trainer.language_pack().details["settings"]["method"] == method


@pytest.mark.parametrize("settings", [{"method": "hybrid"}, {"method": "hybrid", "alternate": True}])
def test_resuming_gives_the_same_weights_bit_for_bit(make_trainer, tmp_path, settings):
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None, **settings}
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **saving)
    straight.train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    for name, weight in weights(straight.model).items():
        assert torch.equal(weights(resumed.model)[name], weight), name


def test_the_loss_of_a_method_is_its_class_called_on_each_pair(make_trainer, held_out):
    for method, loss in (("greedy", GreedyAlignmentLoss()), ("sentence", SentenceMSELoss())):
        trainer = make_trainer(method=method, new_words=0, marginals="uniform", align_special_tokens=True)
        student, teacher = trainer.model.eval(), trainer.teacher
        processors = trainer.processing_class, trainer._teacher_processor
        expected = []
        for pair in held_out["translation"]:
            with torch.no_grad():
                new = student(**processors[0].queries([pair["sw"]])).embeddings
                english = teacher(**processors[1].queries([pair["en"]])).embeddings
            expected.append(loss(new, english).item())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def naive_ranking(
    student, student_processor, teacher, teacher_processor, queries, switched, documents, read_documents, relevant=None
):
    """
    KL divergence of the distributions over documents, or cross entropy of the `relevant` ones, one query at a time, by
    loops over tokens.
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


@pytest.mark.parametrize("side", ["query", "document", "both"])
def test_code_switching_ranks_as_the_teacher_ranks_in_english(make_trainer, pairs, held_out, side):
    trainer = make_trainer(
        method="code_switch", switch_side=side, switch_probability=0.7, per_device_eval_batch_size=64, seed=3
    )
    processor = trainer.processing_class
    dictionary = learn_dictionary(pairs, processor.tokenizer, "sw")
    english = [pair["en"] for pair in held_out["translation"]]
    queries = [*map(CodeSwitcher(dictionary, 0.7, seed=3), english)]
    documents = [*map(CodeSwitcher(dictionary, 0.7, seed="3 document"), english)]
    assert sum(map(str.__eq__, queries, documents)) < len(english) / 2, "a query finds its own copy"
    assert queries != english != documents
    reader = OpticalProcessor(processor.tokenizer, **processor.roles)
    expected = naive_ranking(
        trainer.model.eval(),
        reader,
        trainer.teacher,
        trainer._teacher_processor,
        queries=english,
        switched=english if side == "document" else queries,
        documents=english,
        read_documents=None if side == "query" else documents,
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", ["query", "both"])
def test_with_labels_a_document_that_occurs_twice_is_no_false_negative(make_trainer, side):
    """Three triples in a batch of four: one of them comes twice; another's positive is a negative of a third."""
    rows = [*TRIPLES[:2], {**TRIPLES[2], "negatives": ["a school", TRIPLES[0]["positive"]]}]
    trainer = make_trainer(
        method="code_switch",
        ranking_target="labels",
        switch_side=side,
        triples=Dataset.from_list(rows),
        per_device_train_batch_size=4,
    )
    batch = [trainer.train_dataset[i] for i in range(4)]
    relevant = [row["positive"] for row in batch]
    documents = list(dict.fromkeys([*relevant, *(text for row in batch for text in row["negatives"])]))
    assert len(documents) < 4 + sum(len(row["negatives"]) for row in batch) and len(set(relevant)) == 3
    ranking = trainer.data_collator.ranking
    expected = naive_ranking(
        trainer.model.eval(),
        ranking.processor,
        trainer.teacher,
        trainer._teacher_processor,
        queries=[row["query"] for row in batch],
        switched=[ranking.switch_query(row["query"]) for row in batch],
        documents=documents,
        read_documents=[*map(ranking.switch_document, documents)] if side == "both" else None,
        relevant=relevant,
    )
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_triples_are_ranked_in_place_of_sentences(make_trainer, triples):
    trainer = make_trainer(method="code_switch", triples=triples)
    rows = [trainer.train_dataset[i] for i in range(5)]
    batch = trainer.data_collator(rows)
    documents = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
    expected = trainer._teacher_processor.documents(documents)
    assert torch.equal(batch["teacher_documents"]["input_ids"], expected["input_ids"])
    assert sorted(row["query"] for row in trainer.train_dataset.select(range(3))) == sorted(
        row["query"] for row in TRIPLES
    ), "none again before all were there"
    trainer.train()
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


def test_a_hybrid_is_the_sum_of_both_or_takes_turns(make_trainer):
    trainer = make_trainer(method="hybrid", ranking_weight=0.25)
    trainer.train()
    for log in (log for log in trainer.state.log_history if "loss" in log):
        assert log["loss"] == pytest.approx(log["loss_alignment"] + log["loss_ranking"], abs=1e-4)
    turns = make_trainer(method="hybrid", alternate=True)
    turns.train()
    logs = [log for log in turns.state.log_history if "loss" in log]
    assert [("loss_alignment" in log, "loss_ranking" in log) for log in logs] == [(True, False), (False, True)] * 3


def test_a_dictionary_is_read_in_place_of_one_that_is_learned(make_trainer, tmp_path):
    (tmp_path / "en-sw.txt").write_text("the ile\nbus basi\n", encoding="utf-8")
    trainer = make_trainer(
        method="code_switch", dictionary=[str(tmp_path / "en-sw.txt")], switch_probability=1.0, new_words=0
    )
    assert trainer.data_collator.ranking.switch_query("The bus is late.") == "ile basi is late."


def test_a_dictionary_the_wrong_way_round_is_refused_before_a_model_is_opened(make_trainer, tmp_path):
    (tmp_path / "sw-en.txt").write_text("basi bus\nnyumba house\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sw-en.txt replaces no word of the 'en' texts; is it 'en' to 'sw'"):
        make_trainer(method="hybrid", dictionary=[str(tmp_path / "sw-en.txt")], student=tmp_path / "no student")


def test_two_packs_are_switched_by_two_dictionaries(make_two, tmp_path):
    for code, words in (("sw", "the ile\nis ni\n"), ("lo", "the eli\nis in\n")):
        (tmp_path / f"en-{code}.txt").write_text(words, encoding="utf-8")
    files = [str(tmp_path / f"en-{code}.txt") for code in ("sw", "lo")]
    trainer = make_two(method="code_switch", dictionary=files, switch_probability=1.0, switch_side="both")
    for code, expected in (("sw", "ile bus ni late"), ("lo", "eli bus in late")):
        ranking = trainer.data_collator.collators[code].ranking
        assert ranking.switch_query("the bus is late") == ranking.switch_document("the bus is late") == expected
        assert trainer.language_pack(code).details["settings"]["dictionary"] == f"en-{code}.txt"
    trainer.train()
    assert all(math.isfinite(loss) for loss in (log["loss"] for log in trainer.state.log_history if "loss" in log))


@pytest.mark.parametrize("settings", [{"method": "code_switch"}, {"method": "hybrid", "ranking_target": "labels"}])
def test_the_teacher_s_cache_changes_nothing(make_trainer, tmp_path, settings, triples):
    settings = {**settings, "num_train_epochs": 2, "triples": triples}
    online = make_trainer(cache_teacher=False, **settings)
    cached = make_trainer(cache_teacher=True, teacher_cache_dir=str(tmp_path / "cache"), **settings)
    for trainer in (online, cached):
        trainer.train()
    found = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (online, cached)]
    assert found[0] == pytest.approx(found[1], abs=2e-3)


def test_several_languages_and_one_pack_for_all(make_two, tmp_path):
    trainer = make_two(method="hybrid", shared_pack="all")
    trainer.train()
    trainer.save_model()
    assert LanguagePack.from_pretrained(tmp_path / "run").details["settings"]["method"] == "hybrid"


def test_code_switching_with_an_anchor(make_trainer):
    trainer = make_trainer(method="code_switch", anchor_weight=0.5, side="both")
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    assert step["loss"] == pytest.approx(step["loss_ranking"] + step["loss_anchor"], abs=1e-4)
    assert step["loss_anchor"] == pytest.approx(0, abs=1e-6)


def test_english_words_left_in_switched_text_are_not_respelled(make_trainer):
    trainer = make_trainer(method="code_switch", num_train_epochs=1)
    assert trainer.processing_class.nearest_words is not None
    assert trainer.data_collator.ranking.processor.nearest_words is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "method='magic'; choose one of ot, greedy"),
        ({"switch_probability": 1.5}, "switch_probability=1.5 is no probability"),
        ({"alternate": True}, "alternate needs two methods"),
        ({"dictionary": ["a.txt"]}, "dictionary is for code switching"),
        ({"method": "hybrid", "dictionary": ["a.txt", "b.txt"]}, "2 files for 1 languages"),
        ({"method": "hybrid", "ranking_weight": 0.0}, "ranking_weight=0.0 is not above 0"),
        ({"ranking_temperature": 0.0}, "ranking_temperature=0.0 is not above 0"),
        ({"method": "hybrid", "dictionary": ["missing.txt"]}, "missing.txt cannot be read"),
    ],
)
def test_bad_settings_are_refused_at_once(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_what_a_method_has_no_use_for(make_trainer, triples):
    with pytest.raises(ValueError, match="triples is for code switching"):
        make_trainer(triples=triples)
    with pytest.raises(ValueError, match="loss is for aligned sentences, and method is 'code_switch'"):
        make_trainer(method="code_switch", loss=GreedyAlignmentLoss())
    assert make_trainer(method="code_switch").loss is None
    with pytest.raises(ValueError, match="with the columns query, positive, negatives, got 1 rows with query, text"):
        make_trainer(method="code_switch", triples=Dataset.from_dict({"query": ["a"], "text": ["b"]}))
    with pytest.raises(ValueError, match="triples must have rows .*, got 0 rows"):
        make_trainer(method="hybrid", triples=triples.select([]))


def test_what_a_pack_learned_is_what_it_gives_when_opened(make_trainer, tiny, tmp_path):
    trainer = make_trainer(method="code_switch")
    trainer.train()
    trainer.save_model()
    model = OpticalModel.from_pretrained(tiny)
    LanguagePack.from_pretrained(tmp_path / "run").attach(model)
    activate(model, "sw")
    batch = trainer.processing_class.queries(["basi lina chelewa"])
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).embeddings, trainer.model.eval()(**batch).embeddings)
