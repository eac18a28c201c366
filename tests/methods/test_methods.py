from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_optical import OpticalRetriever
from hf_optical.losses import GreedyAlignmentLoss, SentenceMSELoss
from hf_optical.methods import Greedy, OptimalTransport
from hf_optical.retrieval import center_vectors


@pytest.mark.parametrize("method", ["greedy", "sentence", "ranking", "hybrid"])
def test_every_method_lowers_its_loss_and_leaves_the_base_unchanged(make_trainer, tiny_model, method):
    trainer = make_trainer(method=method, num_train_epochs=3, ranking_temperature=0.05)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.model.fingerprint() == tiny_model.fingerprint()
    assert trainer.language_pack().details["settings"]["method"] == method


def test_eval_loss_is_the_mean_of_the_loss_of_each_pair(make_trainer, held_out):
    for method, loss in (("greedy", GreedyAlignmentLoss()), ("sentence", SentenceMSELoss())):
        trainer = make_trainer(method=method, new_words=0, marginals="uniform", align_special_tokens=True)
        student, teacher = trainer.model.eval(), trainer.teacher
        processors = trainer.processing_class, trainer.teacher_processor
        loss.center, expected = trainer.methods[0]._fitted["sw"][0].mean, []
        for pair in held_out["translation"]:
            with torch.no_grad():
                new = student(**processors[0].queries([pair["sw"]])).embeddings
                english = teacher(**processors[1].queries([pair["en"]])).embeddings
            expected.append(loss(new, english).item())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_vectors_that_are_much_alike_are_told(make_trainer, tiny, pairs, tmp_path, caplog):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    english = [pair["en"] for pair in pairs["translation"]]
    center_vectors(retriever, english).save_pretrained(tmp_path / "centered")
    for teacher, method, told in (
        (tiny, "ot", True),
        (tiny, "sentence", True),
        (tmp_path / "centered", "ot", False),
    ):
        caplog.clear()
        make_trainer(teacher=teacher, method=method, center_costs=False)
        assert ("hf-optical base --center" in caplog.text) == told


def test_hybrid_may_alternate(make_trainer):
    turns = make_trainer(method="hybrid", alternate=True, max_steps=4)
    turns.train()
    logs = [log for log in turns.state.log_history if "loss" in log]
    assert [("loss_alignment" in log, "loss_ranking" in log) for log in logs] == [(True, False), (False, True)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "method must be one of 'ot', 'greedy', .*, got 'magic'"),
        ({"alternate": True}, "alternate must be False, got True; since method='ot' is only one method"),
        ({"dictionary": ["a.txt"], "new_words": 0}, "dictionary must be left out, since new_words=0"),
        (
            {"dictionary": ["a.txt"], "language": ["sw", "lo"]},
            "number of files in dictionary must be 2, got 1; one a language",
        ),
        ({"method": "hybrid", "ranking_weight": 0.0}, "ranking_weight must be positive, got 0.0"),
    ],
)
def test_invalid_settings_raise(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_arguments_that_a_method_does_not_use_raise(make_trainer, triples):
    with pytest.raises(ValueError, match="triples must come with code switching, got method='ot'"):
        make_trainer(triples=triples)
    with pytest.raises(ValueError, match="loss must come with a method that aligns sentences, got"):
        make_trainer(method="code_switch", loss=GreedyAlignmentLoss())
    with pytest.raises(ValueError, match="number of methods that align sentences must be at most 1, got 2"):
        make_trainer(method=[OptimalTransport, Greedy])
    with pytest.raises(ValueError, match="with the columns query, positive, negatives, got"):
        make_trainer(method="code_switch", triples=Dataset.from_dict({"query": ["a"], "text": ["b"]}))
    with pytest.raises(ValueError, match="triples must have rows .*, got 0 rows"):
        make_trainer(method="hybrid", triples=triples.select([]))


def test_mistyped_copies_are_drawn_to_the_same_vectors(make_trainer):
    trainer = make_trainer(method="hybrid", noise_weight=0.5, noise_strength=0.4, side="both", max_steps=2)
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    parts = [value for name, value in step.items() if name.startswith("loss_")]
    assert len(parts) == 3 and step["loss"] == pytest.approx(sum(parts), abs=1e-4)
    assert trainer.language_pack().details["settings"]["noise_weight"] == 0.5
    assert trainer.language_pack().known_words["language"]

    # Without errors in it the copy is the sentence, and its loss the same.
    trainer = make_trainer(method="ot", noise_weight=0.5, noise_strength=0.0)
    measured = trainer.evaluate()
    assert measured["eval_loss_noise"] == pytest.approx(0.5 * measured["eval_loss_alignment"], abs=1e-6)
    assert "noise_weight" not in make_trainer().language_pack().details["settings"]
