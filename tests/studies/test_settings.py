from __future__ import annotations

import pytest

from hf_optical.methods import method_names
from hf_optical.studies import Method
from hf_optical.studies.settings import KINDS, existing, training_arguments


def test_training_methods_are_those_of_the_trainer():
    assert {"ot", "greedy", "sentence", "code_switch", "hybrid"} <= set(method_names())
    assert not set(method_names()) & KINDS.keys()


def test_methods_that_read_sentence_pairs():
    reading = ("trained", "untrained_pack", "dense_peer", "lexicon", "bm25")
    assert all(Method("m", kind, {}).reads_pairs for kind in reading)
    others = [
        ("bm25", {"translated": "human"}),
        ("bm25", {"translator": "some/model"}),
        ("translation", {"model": "x"}),
    ]
    others += [("zero_shot", {}), ("ceiling", {})]
    assert not any(Method("m", kind, settings).reads_pairs for kind, settings in others)


def test_method_settings_override_common_settings(load):
    methods = {"OT": {"kind": "trained"}, "long": {"method": "greedy", "max_steps": 9}}
    config = load(methods=methods)
    assert config.training_settings(config.methods["OT"])["max_steps"] == 2
    assert config.training_settings(config.methods["long"]) == {**config.training, "method": "greedy", "max_steps": 9}
    assert [method.report_kind(config) for method in config.methods.values()] == ["ot", "greedy"]


def test_dictionaries_are_in_the_order_of_the_languages(tmp_path):
    settings = {"method": "code_switch", "dictionary": {"ha": "ha.txt", "ig": "ig.txt"}, "use_cpu": True}
    args = training_arguments(settings, ("ig", "ha"), output_dir=str(tmp_path))
    assert args.dictionary == ["ig.txt", "ha.txt"] and args.languages == ["ig", "ha"]
    assert args.save_strategy == args.eval_strategy == "no"
    with pytest.raises(ValueError, match="dictionary has no file for yo"):
        training_arguments(settings, ("ha", "yo"), output_dir=str(tmp_path))


def test_files_may_be_gzipped(tmp_path):
    (tmp_path / "a.jsonl.gz").touch()
    assert existing(tmp_path / "a.jsonl").name == "a.jsonl.gz"
    (tmp_path / "a.jsonl").touch()
    assert existing(tmp_path / "a.jsonl").name == "a.jsonl"
    assert existing(tmp_path / "b.jsonl").name == "b.jsonl"
