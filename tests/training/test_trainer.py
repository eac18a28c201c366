from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from peft import LoraConfig
from tiny import CHECKPOINTING, DEMO, weights
from torch import nn
from transformers import TrainerCallback

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OTDistillationTrainer, load_bitext
from hf_optical.languages import activate
from hf_optical.methods import Anchor
from hf_optical.model.modeling_optical import base_state_dict
from hf_optical.transport import SOLVERS


def test_training_lowers_the_loss_and_leaves_the_base_unchanged(make_trainer, tiny_model):
    trainer = make_trainer(num_train_epochs=3)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.02
    assert trainer.model.fingerprint() == tiny_model.fingerprint()
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert trained and all(".lora_" in name or ".rows.language_sw" in name for name in trained)


def test_train_all_weights_changes_the_base(make_trainer, tiny_model):
    trainer = make_trainer(train_all_weights=True)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.model.fingerprint() != tiny_model.fingerprint()
    assert not any(".lora_" in name for name in trainer.model.state_dict())


def english_of(pairs) -> list[str]:
    return [pair["en"] for pair in pairs["translation"]]


def center_of(teacher, processor, texts) -> torch.Tensor:
    """The mean of the teacher's vectors, sentence by sentence."""
    with torch.no_grad():
        read = [teacher.eval()(**processor.queries([text])).embeddings[0] for text in dict.fromkeys(texts)]
    return torch.cat(read).double().mean(0)


def centered_costs(new, english, center) -> np.ndarray:
    new, english = (torch.nn.functional.normalize(side - center, dim=1) for side in (new, english))
    return 1 - (new @ english.T).numpy()


def test_eval_loss_is_the_mean_of_exact_transport_pair_by_pair(make_trainer, tiny, teacher_folder, pairs, held_out):
    trainer = make_trainer(solver="exact", align_special_tokens=True, marginals="uniform", new_words=0)
    student, student_processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    teacher, teacher_processor = (
        OpticalModel.from_pretrained(teacher_folder),
        OpticalProcessor.from_pretrained(teacher_folder),
    )
    center, costs = center_of(teacher, teacher_processor, english_of(pairs)), []
    for pair in held_out["translation"]:
        with torch.no_grad():
            new = student(**student_processor.queries([pair["sw"]])).embeddings[0].double()
            english = teacher(**teacher_processor.queries([pair["en"]])).embeddings[0].double()
        costs.append(ot.emd2([], [], centered_costs(new, english, center)))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(np.mean(costs), abs=1e-6)


def test_eval_loss_does_not_depend_on_the_batch_size(make_trainer):
    one, several = (make_trainer(per_device_eval_batch_size=size).evaluate()["eval_loss"] for size in (1, 11))
    assert one == pytest.approx(several, abs=1e-6)


def test_accumulated_gradients_equal_those_of_a_larger_batch(make_trainer):
    settings = {"disable_dropout": True, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    whole = make_trainer(per_device_train_batch_size=6, max_steps=3, **settings)
    whole.train()
    parts = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=3, **settings)
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-6)
    for name, weight in weights(whole.model).items():
        assert (weights(parts.model)[name] - weight).abs().max() <= 1e-6, name


@pytest.mark.parametrize(
    "settings",
    [
        {"anchor_weight": 0.5, "side": "both"},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in ({}, {"train_all_weights": True}, {"train_sampling_strategy": "group_by_length"})
        ),
    ],
)
def test_resuming_gives_the_same_weights_bit_for_bit(make_trainer, tmp_path, settings):
    saving = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    # With dropout, so that the random state must be restored too.
    settings = {"per_device_train_batch_size": 10, "num_train_epochs": 2, "disable_dropout": False} | saving | settings
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **settings)
    straight.train()
    first, second = make_trainer(output_dir=str(tmp_path / "first"), **settings), make_trainer(**settings)
    first.add_callback(StopAfter(4))
    first.train()
    second.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-4"))
    assert straight.state.global_step == second.state.global_step == 6
    for name, weight in weights(straight.model).items():
        assert torch.equal(weights(second.model)[name], weight), name


def losses(trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_best_checkpoint_by_map_is_loaded_after_early_stopping(make_trainer, evaluator, best_by_map, tmp_path):
    trainer = make_trainer(
        retrieval_evaluator=evaluator,
        **best_by_map,
    )
    trainer.train()
    found = [log["eval_map"] for log in trainer.state.log_history if "eval_map" in log]
    assert len(found) < 8, "the learning rate must be high enough to overshoot"
    assert trainer.state.best_metric == max(found)
    assert trainer.results == {}, "they would be those of other weights than the best"
    best = LanguagePack.from_pretrained(trainer.state.best_model_checkpoint)
    in_memory = trainer.language_pack()
    assert all(torch.equal(best.weights[name], weight) for name, weight in in_memory.weights.items())
    assert trainer.evaluate()["eval_map"] == max(found)
    assert trainer.results["sw"]["measures"]["map"]["trained"] == max(found)


def test_logs_contain_the_parts_of_the_loss_and_the_diagnostics(make_trainer):
    trainer = make_trainer(anchor_weight=0.5, eval_strategy="epoch", per_device_train_batch_size=15)
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    assert step["loss"] == pytest.approx(step["loss_alignment"] + step["loss_anchor"], abs=1e-4)
    assert 0 < step["plan_entropy"] < 2 * math.log(64)
    assert 0 <= step["plan_marginal_error"] <= 1e-3 and step["plan_iterations"] >= 10
    evaluation = next(log for log in trainer.state.log_history if "eval_loss" in log)
    assert {"eval_loss_alignment", "eval_loss_anchor", "eval_plan_entropy"} <= set(evaluation)


class EvaluatesAt(TrainerCallback):
    """Evaluate after a step, under another prefix."""

    trainer: OTDistillationTrainer

    def __init__(self, step: int):
        self.step = step
        self.found: dict[str, float] = {}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.found = self.trainer.evaluate(metric_key_prefix="test")


@pytest.mark.promise(
    "Numbers",
    "Logged means cover exactly the steps since the last log: evaluations and failed runs do not change them; with "
    "several languages, every `eval_` number is a mean over the languages.",
)
def test_evaluation_between_logs_leaves_the_training_means_unchanged(make_trainer):
    evaluates = EvaluatesAt(3)
    trainer, undisturbed = make_trainer(logging_steps=5, callbacks=[evaluates]), make_trainer(logging_steps=5)
    evaluates.trainer = trainer
    trainer.train()
    undisturbed.train()
    assert evaluates.found["test_loss_alignment"] == pytest.approx(evaluates.found["test_loss"], abs=1e-6)
    assert "test_plan_entropy" in evaluates.found
    assert not [name for name in evaluates.found if name.startswith(("loss", "plan", "eval"))]
    log, expected = (next(log for log in each.state.log_history if "loss" in log) for each in (trainer, undisturbed))
    assert log["step"] == 5 and log["loss_alignment"] == pytest.approx(log["loss"], abs=1e-4)
    assert {**log, "epoch": 0} == {**expected, "epoch": 0}
    # Other logs get no means.
    trainer.log({"mine": 1.0})
    assert set(trainer.state.log_history[-1]) == {"mine", "epoch", "step"}


def test_failed_run_leaves_no_means_for_the_next(make_trainer):
    class Fails(OTDistillationTrainer):
        fails = True

        def pair_losses(self, student, teacher):
            parts = super().pair_losses(student, teacher)
            if self.fails and self.model.training and self.state.global_step == 2:
                parts["alignment"] = parts["alignment"] * math.nan
            return parts

    trainer = make_trainer(Fails, logging_steps=3)
    with pytest.raises(FloatingPointError):
        trainer.train()
    trainer.fails = False
    trainer.train()
    log = next(log for log in trainer.state.log_history if "loss" in log)
    assert log["loss_alignment"] == pytest.approx(log["loss"], abs=1e-4)


@pytest.mark.promise("Numbers", "Every evaluation covers all given pairs and evaluators.")
def test_evaluation_covers_every_pair_with_dataloader_drop_last(make_trainer, held_out):
    trainer = make_trainer(dataloader_drop_last=True, per_device_train_batch_size=4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        make_trainer(per_device_eval_batch_size=11).evaluate()["eval_loss"], abs=1e-6
    )
    assert len(trainer.predict(held_out).predictions) == len(held_out)
    assert len(trainer.get_train_dataloader()) == 30 // 4


@pytest.mark.promise("Numbers", "An optimizer or a schedule that would train nothing raises an error.")
def test_optimizer_of_other_weights_raises(make_trainer, tiny):
    student, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    settings = {"student": student, "processing_class": processor}
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    whole = make_trainer(train_all_weights=True, optimizers=(optimizer, schedule), max_steps=1, **settings)
    before = {name: weight.clone() for name, weight in weights(whole.model).items()}
    whole.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(whole.model).items())
    with pytest.raises(ValueError, match="optimizers must contain .*lr_scheduler_type"):
        make_trainer(train_all_weights=True, optimizers=(None, schedule), **settings)
    with pytest.raises(ValueError, match="optimizers must contain an optimizer.*Set args.optim"):
        make_trainer(optimizers=(optimizer, None), **settings)


def test_anchor_keeps_english_vectors(make_trainer, tiny, held_out):
    english = [pair["en"] for pair in held_out["translation"]]
    processor = OpticalProcessor.from_pretrained(tiny)
    inputs = processor.queries(english)
    before = OpticalModel.from_pretrained(tiny)(**inputs).embeddings

    def moved(anchor_weight: float) -> float:
        trainer = make_trainer(anchor_weight=anchor_weight, num_train_epochs=2)
        if anchor_weight:
            own = dict(trainer.model.named_parameters())
            (anchor,) = (each for each in trainer.methods if isinstance(each, Anchor))
            shared = anchor.reference.get_input_embeddings().weight
            assert any(weight.data_ptr() == shared.data_ptr() for weight in own.values()), (
                "the base must be shared, not copied"
            )
        trainer.train()
        if anchor_weight:
            first = next(log for log in trainer.state.log_history if "loss_anchor" in log)
            assert first["loss_anchor"] == pytest.approx(0.0, abs=1e-6)
        after = trainer.model.eval()(**inputs).embeddings
        return (1 - (after * before).sum(-1))[inputs["token_mask"]].mean().item()

    assert moved(2.0) < 0.5 * moved(0.0)


def test_loss_of_both_sides_is_the_mean_of_query_and_document(make_trainer, held_out):
    both = make_trainer(side="both").evaluate()["eval_loss"]
    query, document = (make_trainer(side=side).evaluate()["eval_loss"] for side in ("query", "document"))
    assert both == pytest.approx((query + document) / 2, abs=1e-6)
    assert query != pytest.approx(document, abs=1e-6)


def test_group_by_length_reduces_padding(make_trainer):
    def padding(strategy: str) -> float:
        trainer = make_trainer(
            train_sampling_strategy=strategy,
            per_device_train_batch_size=6,
            new_words=0,
            train_dataset=load_bitext(DEMO / "train.jsonl", "sw"),
        )
        masks = [batch["student"]["attention_mask"] for batch in trainer.get_train_dataloader()]
        return sum((mask == 0).sum().item() for mask in masks)

    assert padding("group_by_length") < 0.85 * padding("random")


def test_bf16_trains(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=2)
    trainer.train()
    assert all(math.isfinite(loss) for loss in losses(trainer))
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())


def test_activation_checkpointing_gives_the_same_losses(make_trainer):
    settings = {"max_steps": 3, "disable_dropout": True}
    plain, checkpointed = make_trainer(**settings), make_trainer(**{CHECKPOINTING: True}, **settings)
    plain.train()
    checkpointed.train()
    assert losses(checkpointed) == pytest.approx(losses(plain), abs=1e-6)


def test_student_may_be_its_own_teacher(make_trainer, tiny_model, tiny_processor, pairs):
    from hf_optical import OTDistillationConfig

    args = OTDistillationConfig(output_dir="unused", language="sw", max_steps=2, use_cpu=True, disable_tqdm=True,
                                eval_strategy="no", save_strategy="no")  # fmt: skip
    trainer = OTDistillationTrainer(tiny_model, tiny_model, args, pairs, processing_class=tiny_processor)
    fingerprint = trainer.teacher.fingerprint()
    trainer.train()
    assert trainer.teacher is not trainer.model
    assert not any(".lora_" in name for name, _ in trainer.teacher.named_parameters())
    assert trainer.teacher.fingerprint() == fingerprint


@pytest.mark.parametrize("settings", [{}, {"strength": 0.5}])
def test_saved_pack_gives_the_same_vectors(make_trainer, tiny, tmp_path, settings):
    trainer = make_trainer(max_steps=3, **settings)
    trainer.train()
    trainer.save_model(tmp_path / "pack")
    assert not list((tmp_path / "pack").rglob("*.bin")), "training_args.bin would contain the Hub token"
    pack = LanguagePack.from_pretrained(tmp_path / "pack")
    assert {"max_steps", "seed", "learning_rate"} <= set(pack.details["settings"])
    fresh = OpticalModel.from_pretrained(tiny)
    pack.attach(fresh)
    inputs = trainer.processing_class.queries(["Habari za asubuhi?", "Bei ya samaki ni ngapi?"])
    trainer.model.eval()
    assert torch.equal(fresh(**inputs).embeddings, trainer.model(**inputs).embeddings)
    activate(fresh, None)
    assert torch.equal(fresh(**inputs).embeddings, OpticalModel.from_pretrained(tiny)(**inputs).embeddings)


def test_only_the_main_process_writes(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer.save_model(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_student_with_all_weights_trained_is_saved_completely(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2, train_all_weights=True)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    saved = OpticalModel.from_pretrained(tmp_path / "model")
    for name, weight in base_state_dict(trainer.model).items():
        assert torch.equal(saved.state_dict()[name], weight), name
    OpticalProcessor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("solver", ["unbalanced", "partial"])
def test_every_solver_trains(make_trainer, solver):
    trainer = make_trainer(solver=solver, max_steps=1, marginal_penalty=0.5, transported_mass=0.7)
    trainer.train()
    assert all(math.isfinite(loss) for loss in losses(trainer))
    used = trainer.methods[0].loss.solver
    assert isinstance(used, SOLVERS[solver])
    assert getattr(used, "marginal_penalty", 0.5) == 0.5 and getattr(used, "transported_mass", 0.7) == 0.7


class SentenceMSETrainer(OTDistillationTrainer):
    """Adds the distance of mean vectors (Reimers & Gurevych 2020) to the cost of transport."""

    def pair_losses(self, student, teacher):
        parts = super().pair_losses(student, teacher)
        parts["sentence"] = 0.5 * (mean_vector(student) - mean_vector(teacher)).square().sum(-1)
        return parts


def mean_vector(texts):
    return (texts.embeddings * texts.mask[..., None]).sum(1) / texts.mask.sum(1, keepdim=True)


def test_subclass_adds_a_part_to_the_loss(make_trainer):
    trainer = make_trainer(SentenceMSETrainer, max_steps=1)
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    assert step["loss_sentence"] > 0
    assert step["loss"] == pytest.approx(step["loss_alignment"] + step["loss_sentence"], abs=1e-4)


def test_peft_config_and_loss_replace_the_defaults(make_trainer):
    class MeanCosine(nn.Module):
        def forward(self, student, teacher, student_mask, teacher_mask):
            return 1 - (student.mean(1) * teacher.mean(1)).sum(-1)

    trainer = make_trainer(
        peft_config=LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query"]),
        loss=MeanCosine(),
        marginals="uniform",
        new_words=0,
        max_steps=1,
    )
    trainer.train()
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainer.model.state_dict() if ".lora_" in name}
    assert adapted == {"query"}


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_dropout": 0.25},
        {"peft_config": LoraConfig(r=2, lora_dropout=0.25, target_modules=["query"]), "new_words": 0},
    ],
)
def test_dropout_is_off_except_in_the_adapter(make_trainer, settings, tmp_path):
    trainer = make_trainer(**settings)
    found = {
        (".lora_dropout." in name, module.p)
        for name, module in trainer.model.named_modules()
        if isinstance(module, nn.Dropout)
    }
    assert found == {(True, 0.25), (False, 0.0)}
    trainer.save_model()
    assert LanguagePack.from_pretrained(tmp_path / "run").lora_config.lora_dropout == 0.25


def test_sentence_pairs_without_the_language_raise(make_trainer):
    with pytest.raises(ValueError, match="train_dataset must hold sentence pairs in 'ha': .*only en, sw"):
        make_trainer(language="ha")


def test_new_words_are_added_and_saved(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=3)
    started = trainer.model.get_input_embeddings().rows["language_sw"].detach().clone()
    trainer.train()
    trainer.save_model(tmp_path / "pack")
    pack = LanguagePack.from_pretrained(tmp_path / "pack")
    assert pack.vocabulary.tokens and not torch.equal(pack.vocabulary.rows, started)
    assert len(make_trainer(new_words=1).language_pack().vocabulary.tokens) == 1
    without = make_trainer(new_words=0).language_pack()
    assert without.vocabulary is None and any("lora_embedding" in name for name in without.weights)


def test_open_model_without_processor_raises(make_trainer, tiny_model):
    with pytest.raises(TypeError, match="model must be a name, or an OpticalModel together with processing_class"):
        make_trainer(student=tiny_model)
    with pytest.raises(TypeError, match="got BertModel and NoneType"):
        make_trainer(student=tiny_model.encoder)


def test_arguments_without_a_use_are_refused_with_the_cure(tiny):
    for argument, cure in (
        ("data_collator", "pass a Method with its own reader"),
        ("compute_metrics", "pass a retrieval_evaluator"),
        ("model_init", "hyperparameter_search needs none"),
        ("nonsense", "see the arguments"),
    ):
        with pytest.raises(TypeError, match=f"OTDistillationTrainer takes no {argument}; .*{cure}"):
            OTDistillationTrainer(tiny, tiny, None, **{argument: print})


def test_retrieval_among_held_out_pairs_is_evaluated_by_default(make_trainer, held_out, tmp_path):
    """The score is that of a search written out; the card names the test set, and no ceiling."""
    trainer = make_trainer(
        evaluate_on_pairs=True, max_steps=2, metric_for_best_model="map", eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    found = trainer.evaluate()
    trainer.set_language("sw")
    texts = {code: [pair[code] for pair in held_out["translation"]] for code in ("en", "sw")}
    with torch.no_grad():
        queries = trainer.model.eval()(**trainer.processors["sw"].queries(texts["sw"]))
        documents = trainer.teacher(**trainer.teacher_processor.documents(texts["en"]))
    inner = torch.einsum("qnd,cmd->qncm", queries.embeddings, documents.embeddings)
    best = inner.masked_fill(~documents.mask, -torch.inf).amax(3)
    scores = (best * queries.mask[..., None]).sum(1)
    rank = 1 + (scores > scores.diagonal()[:, None]).sum(1)
    assert found["eval_map"] == pytest.approx((1 / rank).mean().item(), abs=1e-6)
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "held-out sentence pairs" in card and "before training" in card and "human translations |" not in card
    assert not make_trainer(evaluate_on_pairs=False).retrieval_evaluators


def test_hyperparameter_search_starts_every_trial_from_the_same_weights(make_trainer):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainer = make_trainer(evaluate_on_pairs=True, max_steps=2, eval_strategy="epoch")
    start = {name: weight.clone() for name, weight in weights(trainer.model).items()}
    rates = {"learning_rate": [1e-2, 1e-3]}
    best = trainer.hyperparameter_search(
        backend="optuna",
        n_trials=2,
        hp_space=lambda trial: {name: trial.suggest_categorical(name, values) for name, values in rates.items()},
    )
    assert 0 < best.objective <= 1 and best.hyperparameters["learning_rate"] in (1e-2, 1e-3)
    for name, weight in weights(trainer.model).items():
        assert torch.equal(weight, start[name]), name


def test_error_for_a_non_finite_loss_names_the_pair(make_trainer, tiny, pairs):
    trainer = make_trainer(per_device_train_batch_size=30, max_steps=1, new_words=0)
    tokenizer = trainer.processing_class.tokenizer
    rows = [tokenizer(pair["sw"])["input_ids"] for pair in pairs["translation"]]
    unique = next(
        (token, row) for row, ids in enumerate(rows) for token in ids if sum(token in other for other in rows) == 1
    )
    with torch.no_grad():
        dict(trainer.model.named_modules())["encoder.embeddings.word_embeddings"].base_layer.weight[unique[0]] = (
            math.nan
        )
    with pytest.raises(FloatingPointError, match=rf"sentence pair {pairs[unique[1]]['index']} \(row"):
        trainer.train()


def test_idf_marginals_equal_exact_transport_with_counted_weights(make_trainer, pairs):
    """Compare with exact transport, pair by pair, with weights that are counted here."""
    trainer = make_trainer(solver="exact", new_words=0, eval_dataset=pairs.select(range(5)))
    assert trainer.args.marginals == "idf"
    student, teacher = trainer.processing_class, trainer.teacher_processor
    center, costs = center_of(trainer.teacher, teacher, english_of(pairs)), []
    for pair in pairs.select(range(5))["translation"]:
        sides = []
        for model, processor, language in ((trainer.model, student, "sw"), (trainer.teacher, teacher, "en")):
            inputs = processor.queries([pair[language]])
            with torch.no_grad():
                vectors = model.eval()(**inputs).embeddings[0].double()
            ids = inputs["input_ids"][0].tolist()
            texts = [set(processor.tokenizer(other[language])["input_ids"]) for other in pairs["translation"]]
            weights = np.array([math.log1p(30 / (1 + sum(i in text for text in texts))) for i in ids])
            sides.append((vectors[1:-1], weights[1:-1] / weights[1:-1].sum()))
        (new, a), (english, b) = sides
        costs.append(ot.emd2(a, b, centered_costs(new, english, center)))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(np.mean(costs), abs=1e-5)
