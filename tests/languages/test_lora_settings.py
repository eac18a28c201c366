from __future__ import annotations

import time

import pytest
import torch
from peft import LoraConfig

from hf_optical.languages import default_lora_config
from hf_optical.languages.lora_settings import oversized_ranks, unsupported_settings


def test_usual_settings_are_supported(tiny_model):
    usual = {"target_modules": ["query"], "use_rslora": True, "use_dora": True, "init_lora_weights": "gaussian"}
    usual |= {"layers_to_transform": [0, 1]}
    patterns = {
        "target_modules": r"encoder\.layer\.\d+\.attention\.self\.(query|value)",
        "rank_pattern": {r"layer\.\d+\.output": 8},
        "alpha_pattern": {"query": 1.5},
    }
    theirs = LoraConfig(target_modules=r".*\.(encoder|decoder)\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|up|down)_proj")
    for config in (
        default_lora_config(tiny_model, rank=700),
        LoraConfig(**usual),
        LoraConfig(r=8, **patterns),
        theirs,
    ):
        assert unsupported_settings(config) == []
        assert unsupported_settings(LoraConfig(**config.to_dict())) == []


@pytest.mark.parametrize("pattern", [r"(a+)+$", r".*.*.*.*.*x", "a" * 3000, ".?" * 25 + "!"])
def test_slow_patterns_are_not_supported(pattern):
    before = time.process_time()
    assert unsupported_settings(LoraConfig(target_modules=pattern)) == ["target_modules"]
    assert unsupported_settings(LoraConfig(alpha_pattern={pattern: 1.0})) == ["alpha_pattern"]
    assert time.process_time() - before < 1


def test_ranks_larger_than_all_weights_are_found():
    weights = {"layer.lora_A.weight": torch.zeros(600, 4), "layer.other": torch.zeros(9000, 4)}
    assert oversized_ranks(LoraConfig(r=600, rank_pattern={"a": 512}), weights) == []
    assert oversized_ranks(LoraConfig(r=601, rank_pattern={"a": 9000}), weights) == [601, 9000]
    assert oversized_ranks(LoraConfig(r=512), {}) == []
