from __future__ import annotations

import pytest
from transformers import HfArgumentParser

from hf_optical import OTDistillationConfig


def make(**settings) -> OTDistillationConfig:
    return OTDistillationConfig(**{"language": "ha", "use_cpu": True, **settings})


def test_defaults():
    args = make()
    assert args.output_dir.replace("\\", "/") == "outputs/ha"
    assert args.learning_rate == 1e-3 and make(train_all_weights=True).learning_rate == 1e-4
    assert args.roles == ("query",) and make(side="both").roles == ("query", "document")


def test_every_setting_can_be_given_on_the_command_line():
    (args,) = HfArgumentParser(OTDistillationConfig).parse_args_into_dataclasses(
        "--language yo --side both --epsilon 0.1 --lora_rank 8 --lora_embeddings false --anchor_weight 0.5 --use_cpu "
        "--gradient_accumulation_steps 2 --lora_targets query value".split()
    )
    assert (args.language, args.side, args.epsilon, args.lora_rank) == ("yo", "both", 0.1, 8)
    assert args.lora_embeddings is False and args.lora_targets == ["query", "value"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": None}, "language is not set"),
        ({"side": "left"}, "side='left'; choose one of query, document, both"),
        ({"marginals": "tfidf"}, "marginals='tfidf'; choose one of uniform, idf"),
        ({"anchor_weight": -1.0}, "anchor_weight=-1.0 is negative"),
        ({"hub_strategy": "every_save"}, "hub_strategy='every_save' would publish"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True would drop"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_strategies_that_cannot_hold_teacher_or_adapter(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match="ZeRO stage 3.*Use stage 2"):
        make()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    make()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP.*--train_all_weights"):
        make()
