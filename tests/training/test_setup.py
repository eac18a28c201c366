from __future__ import annotations

import pytest
import torch

from hf_optical import OTDistillationConfig
from hf_optical.training.setup import by_language, pairs_by_language


def make(*languages: str) -> OTDistillationConfig:
    return OTDistillationConfig(language=list(languages), use_cpu=True)


def test_pairs_by_language(two, pairs):
    assert pairs_by_language(make("sw"), "train_dataset", pairs) == {"sw": pairs}
    assert list(pairs_by_language(make("lo", "sw"), "train_dataset", two)) == ["lo", "sw"]
    assert pairs_by_language(make("lo", "sw"), "eval_dataset", {"lo": two["lo"]}) == {"lo": two["lo"]}
    assert pairs_by_language(make("sw"), "eval_dataset", None) == {}


def test_pairs_that_do_not_fit_are_named(two, pairs):
    for args, dataset, message in [
        (make("sw", "lo"), pairs, "pairs is one, for the languages sw, lo; pass a dict"),
        (make("sw", "lo"), {**two, "yo": pairs}, "pairs is for sw, lo, yo, and the languages are sw, lo"),
        (make("sw", "lo"), {}, "pairs is for no language, and"),
        (make("sw", "lo"), {"sw": pairs, "lo": pairs}, r"pairs\['lo'\] has no language 'lo'.*it has en, sw"),
        (make("sw", "lo"), {"sw": pairs.select([]), "lo": two["lo"]}, r"pairs\['sw'\] is empty"),
        (make("ha"), pairs, "pairs has no language 'ha'.*it has en, sw"),
    ]:
        with pytest.raises(ValueError, match=message):
            pairs_by_language(args, "pairs", dataset)
    with pytest.raises(ValueError, match="pairs is for sw, and the languages are sw, lo"):
        pairs_by_language(make("sw", "lo"), "pairs", {"sw": pairs}, complete=True)


def test_evaluators_may_be_for_some_languages(evaluator):
    assert by_language(make("sw", "lo"), "retrieval_evaluator", {"lo": evaluator}) == {"lo": evaluator}
    with pytest.raises(ValueError, match="retrieval_evaluator is for yo, and the languages are sw, lo"):
        by_language(make("sw", "lo"), "retrieval_evaluator", {"yo": evaluator})


def test_a_pack_starts_the_same_whoever_is_beside_it(make_two, make_trainer, two):
    together = make_two().model.state_dict()
    alone = make_trainer(language="lo", train_dataset=two["lo"], eval_dataset=None).model.state_dict()
    own = [name for name in alone if "language_lo" in name]
    assert any("rows" in name for name in own) and any("lora_A" in name for name in own)
    assert all(torch.equal(together[name], alone[name]) for name in own)


def test_what_a_token_counts_for_is_told_by_each_language(make_two, make_trainer, two):
    collators = make_two().data_collator.collators
    for language, pairs in two.items():
        alone = make_trainer(language=language, train_dataset=pairs, eval_dataset=None).data_collator
        assert torch.equal(collators[language].student_weights, alone.student_weights)
        assert torch.equal(collators[language].teacher_weights, alone.teacher_weights)
