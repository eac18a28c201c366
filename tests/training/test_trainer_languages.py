"""Several languages in one run."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from tiny import DEMO, weights
from transformers import TrainerCallback

from hf_optical import (
    LanguagePack,
    OpticalModel,
    OpticalProcessor,
    OpticalRetriever,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
)
from hf_optical.hub.language_names import named_code
from hf_optical.languages import activate
from hf_optical.training.report import measure_references, questions_text, results_text, with_references


TEXTS = ["Habari za asubuhi?", "?inagn in ikamas ay ieB", "The bus is late."]


def learned(trainer, pack: str) -> dict[str, torch.Tensor]:
    """Copy the weights of a pack, under names without its code."""
    return {
        name.replace(f"language_{pack}", "language"): weight
        for name, weight in weights(trainer.model).items()
        if f"language_{pack}" in name.split(".")
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and one
    for name, weight in one.items():
        assert torch.equal(other[name], weight), name


class Watch(TrainerCallback):
    """Record which weights get a gradient in each step."""

    def __init__(self):
        self.steps: list[set[str]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        got = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
        self.steps.append(got)


def test_every_pack_gets_gradients_and_changes(make_two, tiny_model):
    watch = Watch()
    trainer = make_two(callbacks=[watch])
    started = {pack: learned(trainer, pack) for pack in ("sw", "lo")}
    trainer.train()
    assert trainer.model.fingerprint() == tiny_model.fingerprint()
    packs = [
        {part for name in step for part in name.split(".") if part.startswith("language_")} for step in watch.steps
    ]
    assert all(len(found) == 1 for found in packs), "a step of one batch must train one pack"
    assert len(set(map(frozenset, packs))) == 2
    trainable = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert set().union(*watch.steps) == trainable
    for pack, before in started.items():
        assert any("rows" in name for name in before) and any("lora_" in name for name in before)
        for name, weight in learned(trainer, pack).items():
            assert not torch.equal(weight, before[name]), (pack, name)


class Replay(OTDistillationTrainer):
    """Draws the given rows, in that order."""

    rows: list[int]

    def _get_train_sampler(self, train_dataset=None):
        return self.rows


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=pytest.mark.slow), {"anchor_weight": 0.5, "sampling_temperature": 5.0}]
)
def test_pack_trained_with_others_equals_the_pack_trained_alone(make_two, make_trainer, two, settings):
    """Bit for bit: weights without gradient do not affect the clipped norm or the steps of AdamW."""
    settings = {"lr_scheduler_type": "constant", "warmup_steps": 0, "num_train_epochs": 2, **settings}
    settings["cache_teacher"] = True
    together = make_two(**settings)
    together.train()
    sampler, drawn = together._get_train_sampler(), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn += sampler
    start = 0
    for language, pairs in two.items():
        own = [row - start for row in drawn if start <= row < start + len(pairs)]
        start += len(pairs)
        steps = {"num_train_epochs": 1, "max_steps": len(own) // 5}
        Replay.rows = own
        alone = make_trainer(
            Replay, language=language, train_dataset=pairs, eval_dataset=None, **{**settings, **steps}
        )
        alone.train()
        assert alone.state.global_step == steps["max_steps"] >= 4
        assert_same(learned(alone, language), learned(together, language))


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(
    "settings",
    [
        {"train_sampling_strategy": "group_by_length", "sampling_temperature": 3.0},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                {},
                {"shared_pack": "eastern"},
                {"train_all_weights": True},
                {"anchor_weight": 0.5, "side": "both", "gradient_accumulation_steps": 2, "save_steps": 2},
                {"language": "lo", "per_device_train_batch_size": 2, "save_steps": 3},
            )
        ),
    ],
)
def test_resuming_in_the_second_epoch_gives_the_same_weights(make_two, two, tmp_path, settings):
    if settings.get("language") == "lo":
        settings = {**settings, "train_dataset": two["lo"], "eval_dataset": None}
    settings = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None, "num_train_epochs": 2, **settings}
    # With dropout, so that the random state must be restored too.
    settings["disable_dropout"] = False
    straight = make_two(output_dir=str(tmp_path / "straight"), **settings)
    straight.train()
    stop = 3 * settings["save_steps"]
    assert straight.state.max_steps / 2 < stop < straight.state.max_steps
    first = make_two(output_dir=str(tmp_path / "first"), callbacks=[StopAfter(stop)], **settings)
    first.train()
    second = make_two(**settings)
    second.train(resume_from_checkpoint=str(tmp_path / "first" / f"checkpoint-{stop}"))
    assert second.state.global_step == straight.state.global_step
    assert_same(weights(straight.model), weights(second.model))


def test_saved_packs_give_the_vectors_of_the_trained_ones(make_two, tiny, tmp_path):
    trainer = make_two(max_steps=4)
    trainer.train()
    trainer.save_model(tmp_path / "packs")
    assert sorted(path.name for path in (tmp_path / "packs").iterdir()) == ["lo", "sw"]
    retriever = OpticalRetriever.from_pretrained(tmp_path / "packs" / "sw", device="cpu")
    retriever.add_language("lo", tmp_path / "packs" / "lo")
    trainer.model.eval()
    for language in ("sw", "lo"):
        assert trainer.language_pack(language).details["languages"] == [language]
        activate(trainer.model, language)
        for text in TEXTS:
            (vectors,) = retriever.encode_queries([text], language=language)
            own = trainer.model(**trainer.processors[language].queries([text])).embeddings[0]
            assert torch.equal(vectors, own)
    english = OpticalModel.from_pretrained(tiny)(**OpticalProcessor.from_pretrained(tiny).documents(TEXTS[2:]))
    documents = retriever.encode_documents(TEXTS[2:], language="base")
    assert torch.equal(documents[0], english.embeddings[0][english.mask[0]])
    with pytest.raises(ValueError, match="language must be one of sw, lo, got None"):
        trainer.language_pack()


def test_shared_pack_has_the_words_of_all_languages(make_two, two, tmp_path):
    trainer = make_two(shared_pack="eastern", new_words=10_000, max_steps=2)
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    trainer.create_model_card()
    pack = LanguagePack.from_pretrained(tmp_path / "run")
    assert pack.language == "eastern" and pack.details["languages"] == ["sw", "lo"]
    assert trainer.language_pack("lo").vocabulary.tokens == pack.vocabulary.tokens
    separate = make_two(new_words=10_000)
    assert set(pack.vocabulary.tokens) == {
        word for language in two for word in separate.language_pack(language).vocabulary.tokens
    }
    card = (tmp_path / "run" / "README.md").read_text()
    assert "# Language pack for Swahili (sw), Lao (lo)\n" in card and 'language="eastern"' in card


def test_higher_temperature_favours_small_languages(make_two):
    def languages(temperature: float) -> Counter:
        trainer = make_two(sampling_temperature=temperature, per_device_train_batch_size=3)
        loader = trainer.get_train_dataloader()
        return Counter(batch["language"] for batch in loader)

    # 30 and 12 pairs in batches of 3.
    assert languages(1.0) == {"sw": 10, "lo": 4}
    assert languages(1e6) == {"sw": 7, "lo": 7}


def test_all_weights_train_on_all_languages(make_two, tmp_path):
    trainer = make_two(train_all_weights=True, num_train_epochs=2)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_sw_loss"] < before["eval_sw_loss"] and after["eval_lo_loss"] < before["eval_lo_loss"]
    trainer.save_model()
    trainer.create_model_card()
    assert "for Swahili (sw), Lao (lo)\n" in (tmp_path / "run" / "README.md").read_text()
    OpticalRetriever.from_pretrained(tmp_path / "run")


@pytest.fixture
def evaluators(evaluator, tiny):
    """Two evaluators with different questions and the same documents."""
    teacher, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    dataset = load_beir(DEMO / "retrieval")
    few = dict(list(dataset.queries.items())[:10])
    part = type(dataset)("few", dataset.corpus, few, {query: dataset.qrels[query] for query in few})
    vectors = evaluator.document_vectors
    return {"sw": evaluator, "lo": RetrievalEvaluator(part, teacher, processor, document_vectors=vectors)}


def test_evaluation_reports_each_language_and_the_means(make_two, make_trainer, two, two_held_out, evaluators, pairs):
    trainer = make_two(retrieval_evaluator=evaluators)
    found = trainer.evaluate()
    for name in ("loss", "loss_alignment", "plan_entropy", "map", "recall@100"):
        assert found[f"eval_{name}"] == pytest.approx((found[f"eval_sw_{name}"] + found[f"eval_lo_{name}"]) / 2)
    for language in two:
        alone = make_trainer(
            language=language,
            train_dataset=two[language],
            eval_dataset=two_held_out[language],
            retrieval_evaluator=evaluators[language],
        ).evaluate()
        for name in ("loss", "loss_alignment", "map"):
            assert found[f"eval_{language}_{name}"] == alone[f"eval_{name}"]
    assert trainer.state.log_history[-1].items() >= {name: found[name] for name in found if "loss" in name}.items()
    assert found["eval_loss_alignment"] == pytest.approx(found["eval_loss"], abs=1e-6)
    only = trainer.evaluate({"lo": two_held_out["lo"]}, metric_key_prefix="eval_only")
    assert only["eval_only_loss"] == found["eval_lo_loss"] and only["eval_only_lo_map"] == found["eval_lo_map"]


def test_report_has_the_only_language_with_evaluation_data(make_two, evaluators, two_held_out):
    only = {"retrieval_evaluator": {"lo": evaluators["lo"]}, "eval_dataset": {"lo": two_held_out["lo"]}}
    trainer = make_two(**only)
    measure_references(trainer)
    results = with_references(trainer.evaluate(), trainer.references, ["sw", "lo"])
    assert results["lo_gap_closed"] == results["gap_closed"]
    text = results_text(results, "lo", ["sw", "lo"])
    assert all(row in text for row in ("before", "after", "gap closed"))
    assert results_text(results, "sw", ["sw", "lo"]) == ""


def test_reported_documents_without_title_begin_with_their_text(make_two):
    trainer = make_two(evaluate_on_pairs=True)  # sentences have no titles
    evaluator = trainer.retrieval_evaluators["lo"]
    trainer.set_language("lo")
    found = evaluator.search(trainer.model, trainer.processors["lo"], top_k=2)
    text = questions_text(trainer, "lo", {query: hits[1:] for query, hits in found.items()}, count=2)
    shown = [line[11:-3] for line in text.splitlines() if line.startswith(("  before ", "   after "))]
    assert len(shown) == 4
    assert all(any(document.text.startswith(part) for document in evaluator.dataset.corpus.values()) for part in shown)


def test_evaluators_also_run_for_languages_without_sentence_pairs(make_two, evaluators, two_held_out):
    every = make_two(retrieval_evaluator=evaluators).evaluate()
    alone = make_two(retrieval_evaluator=evaluators, eval_dataset=None).evaluate()
    found = make_two(retrieval_evaluator=evaluators, eval_dataset={"sw": two_held_out["sw"]}).evaluate()
    assert alone["eval_map"] == every["eval_map"] and "eval_loss" not in alone
    for name in ("eval_map", "eval_sw_map", "eval_lo_map", "eval_sw_loss"):
        assert found[name] == every[name]
    assert found["eval_loss"] == found["eval_sw_loss"] and "eval_lo_loss" not in found


def test_predict_takes_one_language_at_a_time(make_two, two_held_out, tmp_path):
    trainer = make_two(cache_teacher=True, teacher_cache_dir=str(tmp_path / "cache"), max_steps=1)
    trainer.train()
    found = trainer.evaluate()
    for language, pairs in two_held_out.items():
        predicted = trainer.predict({language: pairs})
        assert len(predicted.predictions) == len(pairs)
        assert predicted.metrics["test_loss"] == pytest.approx(found[f"eval_{language}_loss"], abs=1e-6)
    for wrong in (two_held_out, two_held_out["sw"], {}):
        with pytest.raises(ValueError, match="test_dataset must be"):
            trainer.predict(wrong)
    with pytest.raises(ValueError, match="test_dataset must be a dict .* languages sw, lo, got yo"):
        trainer.predict({"yo": two_held_out["sw"]})


@pytest.mark.slow
def test_best_checkpoint_by_mean_map_is_loaded_with_all_packs(make_two, evaluators, best_by_map):
    trainer = make_two(
        retrieval_evaluator=evaluators,
        **best_by_map,
    )
    trainer.train()
    found = [log["eval_map"] for log in trainer.state.log_history if "eval_map" in log]
    assert len(found) < 8, "the learning rate must be high enough to overshoot"
    assert trainer.state.best_metric == max(found)
    assert trainer.evaluate()["eval_map"] == max(found)


def test_every_pack_gets_a_card(make_two, evaluators, tmp_path):
    trainer = make_two(retrieval_evaluator=evaluators, max_steps=2)
    trainer.details = {"sw": {"bitext": "swahili.jsonl", "pairs": 30}, "lo": {"bitext": "lao.jsonl", "pairs": 12}}
    trainer.train()
    found = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    for language, bitext, pairs in (("sw", "swahili", 30), ("lo", "lao", 12)):
        card = (tmp_path / "run" / language / "README.md").read_text()
        assert f"# Language pack for {named_code(language)}\n" in card and f"{pairs} from `{bitext}.jsonl`" in card
        assert f"{found[f'eval_{language}_map']:.3f}" in card and "eval_" not in card and "Mean over" not in card
        stored = json.loads((tmp_path / "run" / language / "language_pack.json").read_text())
        assert stored["details"]["bitext"] == f"{bitext}.jsonl"


def test_accumulated_batches_may_be_of_different_languages(make_two):
    watch = Watch()
    make_two(gradient_accumulation_steps=4, callbacks=[watch]).train()
    both = [step for step in watch.steps if len({"sw" if "language_sw" in name else "lo" for name in step}) == 2]
    assert both


def test_batches_alternate_between_languages(make_two):
    order = [batch["language"] for batch in make_two(per_device_train_batch_size=2).get_train_dataloader()]
    assert sum(one != next_one for one, next_one in pairwise(order)) > 4
