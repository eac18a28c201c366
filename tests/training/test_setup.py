from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_optical import OTDistillationConfig
from hf_optical.errors import DataError
from hf_optical.training.data import DataArguments, load_training_data
from hf_optical.training.pairs import by_language, pairs_by_language


def make(*languages: str) -> OTDistillationConfig:
    return OTDistillationConfig(language=list(languages), use_cpu=True)


def test_pairs_by_language(two, pairs):
    assert pairs_by_language(make("sw"), "train_dataset", pairs) == {"sw": pairs}
    assert list(pairs_by_language(make("lo", "sw"), "train_dataset", two)) == ["lo", "sw"]
    assert pairs_by_language(make("lo", "sw"), "eval_dataset", {"lo": two["lo"]}) == {"lo": two["lo"]}
    assert pairs_by_language(make("sw"), "eval_dataset", None) == {}


def test_pairs_of_wrong_languages_raise(two, pairs):
    for args, dataset, message in [
        (make("sw", "lo"), pairs, "pairs must be a dict with a value for each of the languages sw, lo, got Dataset"),
        (make("sw", "lo"), {**two, "yo": pairs}, "for each of the languages sw, lo, got sw, lo, yo"),
        (make("sw", "lo"), {}, "for each of the languages sw, lo, got dict"),
        (
            make("sw", "lo"),
            {"sw": pairs, "lo": pairs},
            "pairs must hold sentence pairs in 'lo': .* has no language 'lo', only en, sw",
        ),
        (
            make("sw", "lo"),
            {"sw": pairs.select([]), "lo": two["lo"]},
            "pairs must hold sentence pairs in 'sw': ",
        ),
        (make("ha"), pairs, "pairs must hold sentence pairs in 'ha'"),
    ]:
        with pytest.raises(ValueError, match=message):
            pairs_by_language(args, "pairs", dataset)
    with pytest.raises(ValueError, match="pairs must be a dict with a value for each of the languages sw, lo, got sw"):
        pairs_by_language(make("sw", "lo"), "pairs", {"sw": pairs}, complete=True)


def test_pairs_with_an_index_of_their_own_are_read_and_checked(pairs):
    """Only rows with the columns of `load_bitext` are taken as they are, and a missing first pair is no error."""
    rows = [{"translation": pair, "index": f"row {i}"} for i, pair in enumerate(pairs["translation"])]
    (own,) = pairs_by_language(make("sw"), "train_dataset", Dataset.from_list(rows)).values()
    assert own["index"] == pairs["index"] and own["length"] == pairs["length"]
    rows = [{"translation": row["translation"] if i else None, "index": i, "length": 1} for i, row in enumerate(rows)]
    (own,) = pairs_by_language(make("sw"), "train_dataset", Dataset.from_list(rows)).values()
    assert own[0]["translation"] == {"en": "", "sw": ""}


def test_pairs_come_in_any_form(make_trainer, pairs):
    """As other libraries hand them over: the same losses as from `load_bitext`."""
    texts = {code: [pair[code] for pair in pairs["translation"]] for code in ("en", "sw")}
    forms = {
        "loaded": pairs,
        "list": [{"translation": pair} for pair in pairs["translation"]],
        "columns": Dataset.from_dict(texts),
        "frame": Dataset.from_dict(texts).to_pandas(),
        "stream": Dataset.from_dict(texts).to_iterable_dataset(),
        "dict of splits": DatasetDict({"train": Dataset.from_dict(texts)}),
    }
    losses = {}
    for form, train_dataset in forms.items():
        settings = {"max_steps": 2, "train_sampling_strategy": "sequential", "new_words": 0}
        trainer = make_trainer(train_dataset=train_dataset, **settings)
        trainer.train()
        losses[form] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        assert losses[form] == losses["loaded"] and len(losses[form]) == 2, form
        assert ("pairs" in trainer.language_pack().details) == (form != "stream")


def test_stream_needs_a_number_of_steps(make_trainer, pairs):
    with pytest.raises(ValueError, match="max_steps must be at least 1, got -1; a stream has no length"):
        make_trainer(train_dataset=pairs.to_iterable_dataset())


def test_evaluators_may_be_for_some_languages(evaluator):
    assert by_language(make("sw", "lo"), "retrieval_evaluator", {"lo": evaluator}) == {"lo": evaluator}
    with pytest.raises(ValueError, match="retrieval_evaluator must be a dict .* languages sw, lo, got yo"):
        by_language(make("sw", "lo"), "retrieval_evaluator", {"yo": evaluator})


def test_initial_weights_of_a_pack_do_not_depend_on_other_packs(make_two, make_trainer, two):
    together = make_two().model.state_dict()
    alone = make_trainer(language="lo", train_dataset=two["lo"], eval_dataset=None).model.state_dict()
    own = [name for name in alone if "language_lo" in name]
    assert any("rows" in name for name in own) and any("lora_A" in name for name in own)
    assert all(torch.equal(together[name], alone[name]) for name in own)


def test_token_weights_are_counted_for_each_language(make_two, make_trainer, two):
    together = make_two().methods[0]._weights
    for language, pairs in two.items():
        alone = make_trainer(language=language, train_dataset=pairs, eval_dataset=None).methods[0]._weights
        assert together.keys() == two.keys() and alone.keys() == {language}
        for weights, expected in zip(together[language], alone[language], strict=True):
            assert torch.equal(weights, expected)


def test_two_sources_of_sentence_pairs_are_refused():
    data = DataArguments(train_file=["pairs.jsonl"], dataset_name=["some/pairs"])
    with pytest.raises(DataError, match="--train_file and --dataset_name must not be passed together; leave one"):
        load_training_data(data, make("sw"))


def test_one_sentence_pair_cannot_be_held_out(pairs, tmp_path):
    pairs.select(range(1)).to_json(tmp_path / "one.jsonl", force_ascii=False)
    data = DataArguments(train_file=[str(tmp_path / "one.jsonl")])
    with pytest.raises(DataError, match="only one sentence pair for 'sw'.*; pass more, or --validation_file"):
        load_training_data(data, make("sw"))


def test_stream_may_have_other_columns_and_be_given_by_language(make_trainer, pairs):
    rows = [{**row["translation"], "language": "swh", "query": "none"} for row in pairs]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    for given in (stream, {"sw": stream}):
        make_trainer(train_dataset=given, max_steps=2).train()
    with pytest.raises(ValueError, match="cache_teacher must be one of None, False.*a stream is read once"):
        make_trainer(train_dataset=stream, max_steps=2, cache_teacher=True)


def test_run_without_pairs_to_evaluate_on_searches_or_does_not_evaluate(make_trainer, evaluator, caplog):
    searching = make_trainer(eval_dataset=None, retrieval_evaluator=evaluator, eval_strategy="epoch", max_steps=-1)
    searching.train()
    assert any("eval_map" in log for log in searching.state.log_history)
    caplog.set_level("INFO")
    make_trainer(
        eval_dataset=None, eval_strategy="epoch", max_steps=1, output_dir=searching.args.output_dir + "2"
    ).train()
    assert "nothing to evaluate on" in caplog.text
    with pytest.raises(ValueError, match="must be given with load_best_model_at_end"):
        make_trainer(
            eval_dataset=None, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, max_steps=1
        )


def test_settings_of_packs_are_refused_without_a_pack(make_trainer):
    for name, value in (("strength", 0.5), ("rows_from_text", True)):
        with pytest.raises(ValueError, match=f"{name} must be .*train_all_weights trains no pack"):
            make_trainer(train_all_weights=True, **{name: value})
