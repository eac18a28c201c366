"""The transport loss in the trainer of sentence-transformers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from tiny import demo_pairs, tiny_checkpoint

from hf_optical import MultiVectorOTAlignmentLoss, OpticalModel, OpticalProcessor, OpticalRetriever, OTAlignmentLoss
from hf_optical.bitext import inverse_document_frequency
from hf_optical.methods import DistillationCollator, LanguageData
from hf_optical.methods.base import PairReader


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def columns() -> Dataset:
    return Dataset.from_list([{"sw": pair["sw"], "en": pair["en"]} for pair in demo_pairs()[:16]])


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A student with a query marker and query expansion."""
    roles = {"query_marker": "[MASK]", "query_expansion": True, "query_length": 24, "attend_to_expansion": True}
    return tiny_checkpoint(tmp_path_factory.mktemp("marked"), **roles)


def encoder(folder) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu", config_kwargs=NO_DROPOUT)


def features(loss, columns: Dataset) -> list[dict]:
    """Make a batch as the trainer passes it to a loss."""
    batch = loss.data_collator("en")(list(columns))
    return [
        {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
        for column in columns.column_names
    ]


def trainer(model, columns, loss, folder, **options) -> MultiVectorEncoderTrainer:
    arguments = MultiVectorEncoderTrainingArguments(
        str(folder),
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        max_steps=options.pop("max_steps", 8),
    )
    return MultiVectorEncoderTrainer(model, arguments, train_dataset=columns, loss=loss, **options)


@pytest.mark.parametrize(("special", "weighted"), [(False, True), (True, False)])
def test_loss_equals_that_of_our_own_models_and_collator(marked, teacher_folder, columns, special, weighted):
    student, teacher = encoder(marked), encoder(teacher_folder)
    processors = [OpticalProcessor.from_pretrained(folder) for folder in (marked, teacher_folder)]
    weights = {}
    if weighted:
        weights["student_weights"] = inverse_document_frequency(processors[0], columns["sw"])
        weights["teacher_weights"] = inverse_document_frequency(processors[1], columns["en"])
    loss = MultiVectorOTAlignmentLoss(student, teacher, align_special_tokens=special, **weights)
    found = loss(features(loss, columns), None)

    rows = [{"translation": row, "index": i} for i, row in enumerate(columns)]
    student_processor, teacher_processor = processors
    data = LanguageData("sw", "en", None, student_processor, student_processor, teacher_processor)
    batch = DistillationCollator({"sw": [PairReader(data, ("query",), special)]}, {"sw": student_processor})(rows)
    blocks = {"student_weights": batch["student"], "teacher_weights": batch["teacher"]["pairs"]}
    models = [OpticalModel.from_pretrained(folder) for folder in (marked, teacher_folder)]
    ours, theirs = (model(**block) for model, block in zip(models, blocks.values(), strict=True))
    expected = OTAlignmentLoss(epsilon=0.01, max_iterations=100, tolerance=1e-3)(
        *(ours.embeddings, theirs.embeddings, ours.mask, theirs.mask),
        *(weights[name][block["input_ids"]] if weighted else None for name, block in blocks.items()),
    )
    assert abs(found.item() - expected.item()) <= 1e-6
    found.backward()
    assert all(weight.grad is None for weight in teacher.parameters())


def test_retriever_opens_what_their_trainer_trained(tiny, teacher_folder, columns, tmp_path):
    student, teacher = encoder(tiny), encoder(teacher_folder)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    loss = MultiVectorOTAlignmentLoss(student, teacher)
    run = trainer(
        *(student, columns, loss, tmp_path / "run"), data_collator=loss.data_collator("en"), eval_dataset=columns
    )
    untrained = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < 0.7 * untrained
    assert not teacher.training and all(torch.equal(before[name], now) for name, now in teacher.state_dict().items())

    student.save_pretrained(str(tmp_path / "student"))
    retriever = OpticalRetriever.from_pretrained(tmp_path / "student")
    for ours, theirs in zip(retriever.encode_queries(columns["sw"]), student.encode_query(columns["sw"]), strict=True):
        assert (ours - torch.as_tensor(theirs)).abs().max() <= 1e-6
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert '"solver": "sinkhorn"' in card and "huang2023optical" in card and str(tmp_path.parent) not in card


def test_bitext_trains_together_with_english_triples(tiny, columns, tmp_path):
    student = encoder(tiny)
    loss = MultiVectorOTAlignmentLoss(student, student)
    assert loss.teacher is not student
    english = Dataset.from_dict({"query": columns["en"], "document": columns["en"]})
    run = trainer(
        student,
        DatasetDict(pairs=columns, english=english),
        {"pairs": loss, "english": MultiVectorMultipleNegativesRankingLoss(student)},
        tmp_path,
        data_collator=loss.data_collator("en"),
        max_steps=4,
    )
    assert run.train().metrics["train_loss"] > 0


def test_empty_sentence_is_aligned_by_its_special_tokens(tiny):
    loss = MultiVectorOTAlignmentLoss(encoder(tiny), encoder(tiny))
    assert torch.isfinite(loss(features(loss, Dataset.from_dict({"sw": ["", "maji"], "en": ["water", ""]}))))


def test_columns_not_tokenised_for_the_teacher_raise(tiny, columns, tmp_path):
    student = encoder(tiny)
    loss = MultiVectorOTAlignmentLoss(student, student)
    with pytest.raises(ValueError, match="got one read as 'query', one read as 'document'.*data_collator=loss"):
        trainer(student, columns, loss, tmp_path).train()
    swapped = columns.select_columns(["en", "sw"])
    with pytest.raises(ValueError, match="got one read as 'teacher', one read as 'document'"):
        trainer(student, swapped, loss, tmp_path, data_collator=loss.data_collator("en")).train()


def test_models_that_do_not_fit_raise(tiny, tiny_model, tmp_path):
    student = encoder(tiny)
    with pytest.raises(TypeError, match="teacher must be a .*MultiVectorEncoder, got OpticalModel"):
        MultiVectorOTAlignmentLoss(student, tiny_model)
    small = encoder(tiny_checkpoint(tmp_path, projection_dim=16))
    with pytest.raises(ValueError, match="vector size of the teacher must be 32, got 16"):
        MultiVectorOTAlignmentLoss(student, small)
    with pytest.raises(ValueError, match="epsilon"):
        MultiVectorOTAlignmentLoss(student, student, epsilon=-1)
