from __future__ import annotations

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hf_optical import OTDistillationConfig


def make(**settings) -> OTDistillationConfig:
    return OTDistillationConfig(**{"language": "ha", "use_cpu": True, **settings})


def test_defaults():
    args = make()
    assert args.output_dir.replace("\\", "/") == "outputs/ha"
    assert args.learning_rate == 2e-3 and make(train_all_weights=True).learning_rate == 1e-4
    assert args.roles == ("query",) and make(side="both").roles == ("query", "document")


def test_languages_and_packs():
    one, several, shared = make(), make(language=["ha", "yo"]), make(language=["ha", "yo"], shared_pack="niger")
    assert (one.languages, several.languages) == (["ha"], ["ha", "yo"])
    assert one.packs == {"ha": ["ha"]} and several.packs == {"ha": ["ha"], "yo": ["yo"]}
    assert shared.packs == {"niger": ["ha", "yo"]} and make(train_all_weights=True).packs == {}
    assert [args.pack_of("yo") for args in (several, shared)] == ["yo", "niger"]
    assert [Path(args.output_dir).name for args in (one, several, shared)] == ["ha", "ha-yo", "niger"]
    assert one.folder_of("ha") == Path("outputs/ha") and several.folder_of("yo") == Path("outputs/ha-yo/yo")
    assert shared.folder_of("niger", "here") == Path("here")
    # A step trains one of several packs, and DistributedDataParallel must find the others, which have no gradient.
    assert [args.ddp_find_unused_parameters for args in (one, several, shared)] == [False, True, False]
    assert make(language=["ha", "yo"], ddp_find_unused_parameters=False).ddp_find_unused_parameters is False


def test_data_seed_may_be_zero():
    seeds = [make(seed=5, **own).sampling_seed for own in ({}, {"data_seed": 0}, {"data_seed": 7})]
    assert seeds == [5, 0, 7]


def test_one_dictionary_needs_no_list():
    assert make(dictionary="words.tsv").dictionary_files == {"ha": ["words.tsv"]}


def test_settings_are_command_line_options():
    (args,) = HfArgumentParser(OTDistillationConfig).parse_args_into_dataclasses(
        "--language yo ig --shared_pack niger --sampling_temperature 5 "
        "--side both --epsilon 0.1 --lora_rank 8 --lora_embeddings false --anchor_weight 0.5 --use_cpu "
        "--gradient_accumulation_steps 2 --lora_targets query value".split()
    )
    assert (args.languages, args.side, args.epsilon, args.lora_rank) == (["yo", "ig"], "both", 0.1, 8)
    assert args.lora_embeddings is False and args.lora_targets == ["query", "value"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": None}, "language is not set"),
        ({"language": ["ha", "../x"]}, "language must be a code .* got '../x'"),
        ({"language": ["ha", "yo", "ha"]}, "must be different codes, got language=\\['ha', 'yo', 'ha'\\]"),
        ({"language": ["ha", "en"]}, "must be different codes.*teacher_language='en'"),
        (
            {"shared_pack": "all", "train_all_weights": True},
            "shared_pack must be None, got 'all'",
        ),
        (
            {"language": ["ha", "yo"], "train_sampling_strategy": "sequential"},
            "must be one of .*got 'sequential'; since",
        ),
        ({"side": "left"}, "side must be one of 'query', 'document', 'both', got 'left'"),
        ({"anchor_weight": -1.0}, "anchor_weight must be at least 0, got -1.0"),
        ({"hub_strategy": "every_save"}, "hub_strategy must be 'end', got 'every_save'; since others would publish"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches must be True, got False; since custom metrics"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be False, got True; since the collator"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "use_seedable_sampler must be True"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_unsupported_distributed_strategies_raise(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match="ZeRO stage must be .*got '3'; since stage 3.*use stage 2"):
        make()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    make()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP.*--train_all_weights"):
        make()
