from __future__ import annotations

import pytest
import torch


def test_loss_is_the_divergence_of_rankings_by_plain_maxsim(make_trainer, held_out):
    """Every score by a loop over the tokens of one query and one document."""
    settings = {"method": "ranking", "new_words": 0, "ranking_temperature": 0.1, "per_device_eval_batch_size": 64}
    trainer = make_trainer(**settings, ranking_weight=2.0)
    model, teacher = trainer.model.eval(), trainer.teacher
    processor, teacher_processor = trainer.processing_class, trainer.teacher_processor

    def vectors(reader, inputs, special):
        with torch.no_grad():
            found = reader(**inputs).embeddings[0]
        return found[1:-1] if special else found

    pairs = held_out["translation"]
    student = [vectors(model, processor.queries([pair["sw"]]), True) for pair in pairs]
    english = [vectors(teacher, teacher_processor.queries([pair["en"]]), True) for pair in pairs]
    documents = []
    for pair in pairs:
        inputs = teacher_processor.documents([pair["en"]])
        documents.append(vectors(teacher, inputs, False)[inputs["token_mask"][0]])

    def distribution(queries):
        scores = [[sum((q @ d.T).max() for q in query) / len(query) for d in documents] for query in queries]
        return (torch.tensor(scores) / 0.1).softmax(1)

    target, found = distribution(english), distribution(student)
    expected = 2 * (target * (target / found).log()).sum(1).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_ranking_is_added_to_transport(make_trainer):
    trainer = make_trainer(method="ot_ranking", max_steps=1)
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    assert step["loss"] == pytest.approx(step["loss_alignment"] + step["loss_ranking"], abs=1e-4)
    assert trainer.language_pack().details["settings"]["method"] == "ot_ranking"
