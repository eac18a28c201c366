from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from model.layout.checkpoints import native_checkpoint
from peers import embed, largest_difference, open_both, peer_difference

from hf_optical import OpticalModel, OpticalProcessor


MARKERS = {"query": "[Q] ", "document": "[D] "}
PROMPTS = {"query": "query: ", "document": "passage: "}
FIXED = {"strategy": "fixed", "length": 24}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return native_checkpoint(tmp_path_factory.mktemp("native"), query_expansion=FIXED, document_length=40)


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    """A copy for the test to change."""
    return shutil.copytree(written, tmp_path / "checkpoint")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CASES = {
    "the encoder alone": {"dims": (), "skip": ()},
    "prompts and lengths": {"prompts": PROMPTS, "query_length": 12, "document_length": 20},
    "markers": {"added": ("[Q] ", "[D] "), "prompts": MARKERS, "query_expansion": FIXED},
    "markers without their space": {"added": ("[Q]", "[D]"), "prompts": MARKERS, "document_length": 30},
    "markers that are no tokens": {"prompts": MARKERS, "query_expansion": {**FIXED, "attend": True}},
}


@pytest.mark.parametrize(
    ("architecture", "case"),
    [
        ("bert", "prompts and lengths"),
        ("bert", "markers"),
        ("xlm-roberta", "the encoder alone"),
        ("modernbert", "markers without their space"),
        ("modernbert", "markers that are no tokens"),
    ],
)
def test_ids_masks_and_vectors_equal_sentence_transformers(tmp_path, architecture, case):
    native_checkpoint(tmp_path / "native", architecture, **CASES[case])
    assert peer_difference(tmp_path / "native") <= 1e-6
    model, processor = open_both(tmp_path / "native")
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert OpticalProcessor.from_pretrained(tmp_path / "ours").roles == processor.roles
    assert largest_difference(embed(tmp_path / "native"), embed(tmp_path / "ours")) == 0.0
    assert peer_difference(tmp_path / "ours") <= 1e-6


def test_opening_logs_no_warnings(written, quiet):
    open_both(written)


def test_prompt_of_one_token_is_a_marker(tmp_path):
    """PyLate inserts markers and leaves prompts to the caller."""
    native_checkpoint(tmp_path, added=("[Q] ", "[D]"), prompts={"query": "[Q] ", "document": "[D] the text: "})
    processor = OpticalProcessor.from_pretrained(tmp_path)
    assert (processor.query_marker, processor.query_prompt) == ("[Q] ", "")
    assert (processor.document_marker, processor.document_prompt) == ("[D]", "the text: ")
    assert peer_difference(tmp_path) <= 1e-6


def test_prompt_stays_text_if_a_marker_would_change_the_tokens(tmp_path):
    """Byte-level tokenizers split a word differently after "[Q]" and a space than at the start of a text."""
    native_checkpoint(tmp_path, "modernbert", added=("[Q]", "[D]"), prompts=MARKERS)
    processor = OpticalProcessor.from_pretrained(tmp_path)
    assert (processor.query_marker, processor.query_prompt) == (None, "[Q] ")


@pytest.mark.parametrize(("dims", "residual"), [((48, 16), False), ((32, 24, 8), True)], ids=str)
def test_several_layers_are_combined(tmp_path, dims, residual):
    native_checkpoint(tmp_path, dims=dims, residual=residual)
    assert peer_difference(tmp_path) <= 1e-6
    model = OpticalModel.from_pretrained(tmp_path)
    assert model.config.projection_dim == dims[-1] and model.config.projection_bias
    model.save_pretrained(tmp_path / "ours")
    OpticalProcessor.from_pretrained(tmp_path).save_pretrained(tmp_path / "ours")
    assert largest_difference(embed(tmp_path), embed(tmp_path / "ours")) == 0.0


def test_expansion_may_name_the_mask_token(checkpoint):
    edit(checkpoint / "sentence_bert_config.json", query_expansion={**FIXED, "token": "[MASK]"})
    assert peer_difference(checkpoint) <= 1e-6


def test_skip_list_without_tasks_skips_nothing(checkpoint):
    edit(checkpoint / "2_MultiVectorMask" / "config.json", skiplist_tasks=[])
    assert OpticalProcessor.from_pretrained(checkpoint).skip_tokens == []
    assert peer_difference(checkpoint) <= 1e-6


def test_nothing_is_skipped_without_a_mask_module(checkpoint):
    modules = json.loads((checkpoint / "modules.json").read_text())
    (checkpoint / "modules.json").write_text(json.dumps([modules[0], modules[1], modules[3]]))
    edit(checkpoint / "sentence_bert_config.json", query_expansion=None)
    assert OpticalProcessor.from_pretrained(checkpoint).skip_tokens == []
    assert peer_difference(checkpoint) <= 1e-6


def test_missing_lengths_have_defaults(checkpoint):
    edit(checkpoint / "sentence_bert_config.json", query_expansion=None, document_length=None)
    edit(checkpoint / "tokenizer_config.json", model_max_length=33)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_length, processor.document_length) == (33, 33)
    assert peer_difference(checkpoint) <= 1e-6


def test_tokenizer_without_maximum_length(checkpoint):
    edit(checkpoint / "sentence_bert_config.json", query_expansion=None, query_length=None, document_length=None)
    edit(checkpoint / "tokenizer_config.json", model_max_length=None)
    processor = OpticalProcessor.from_pretrained(checkpoint)
    assert (processor.query_length, processor.document_length) == (2**16, 2**24)
    processor.save_pretrained(checkpoint)
    assert OpticalProcessor.from_pretrained(checkpoint).roles == processor.roles


def test_lowercasing_is_applied_and_saved(tmp_path):
    native_checkpoint(tmp_path, "modernbert")
    edit(tmp_path / "sentence_bert_config.json", do_lower_case=True)
    assert peer_difference(tmp_path) <= 1e-6
    processor = OpticalProcessor.from_pretrained(tmp_path)
    assert (
        processor.queries(["The River"])["input_ids"].tolist()
        == processor.queries(["the river"])["input_ids"].tolist()
    )
    # The saved tokenizer lowercases.
    OpticalModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert peer_difference(tmp_path / "ours") <= 1e-6


SETTINGS, MASK = "sentence_bert_config.json", "2_MultiVectorMask/config.json"


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        (SETTINGS, {"query_expansion": {"strategy": "min", "length": 24}}, "query expansion with strategy 'min'"),
        (SETTINGS, {"transformer_task": "fill-mask"}, "transformer_task='fill-mask'"),
        (SETTINGS, {"processing_kwargs": {"text": {"padding": False}}}, "processing_kwargs={'text'"),
        (MASK, {"skiplist_tasks": ["query", "document"]}, "skiplist_tasks for queries"),
        (MASK, {"keep_only_token_ids": [5]}, "keep_only_token_ids"),
        (
            "3_Normalize/config.json",
            {"module_input_name": "sentence_embedding"},
            "a 3_Normalize that does not map tokens",
        ),
        ("config_sentence_transformers.json", {"similarity_fn_name": "meanmaxsim"}, "similarity_fn_name='meanmaxsim'"),
    ],
    ids=str,
)
def test_unsupported_settings_raise_with_their_names(checkpoint, file, changes, named):
    edit(checkpoint / file, **changes)
    for one in (OpticalModel, OpticalProcessor):
        with pytest.raises(ValueError) as caught:
            one.from_pretrained(checkpoint)
        assert f"{checkpoint} has {named}" in str(caught.value)
        assert str(caught.value).endswith("not supported by this library; open it with sentence-transformers")


def test_all_unsupported_settings_are_named_at_once(checkpoint):
    edit(checkpoint / MASK, skiplist_tasks=["query"], keep_only_token_ids=[5])
    with pytest.raises(ValueError, match="skiplist_tasks for queries and keep_only_token_ids, not supported"):
        OpticalModel.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (["Transformer", "Pooling", "Normalize"], "Pooling"),
        (["Transformer", "Normalize", "Dense"], "Transformer, Normalize, Dense"),
        (["Transformer", "Dense"], "Transformer, Dense"),
    ],
    ids=str,
)
def test_unsupported_modules_raise_with_their_names(checkpoint, kinds, named):
    modules = [{"idx": i, "name": str(i), "path": "", "type": f"some.where.{kind}"} for i, kind in enumerate(kinds)]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=f"has the modules .*{named}.*supported: Transformer, any Dense, Normalize"):
        OpticalModel.from_pretrained(checkpoint)


def test_expansion_without_a_mask_module_raises(checkpoint):
    modules = json.loads((checkpoint / "modules.json").read_text())
    (checkpoint / "modules.json").write_text(json.dumps([modules[0], modules[1], modules[3]]))
    with pytest.raises(ValueError, match="query expansion without a MultiVectorMask"):
        OpticalModel.from_pretrained(checkpoint)


def test_expansion_with_another_token_raises(checkpoint):
    edit(checkpoint / SETTINGS, query_expansion={**FIXED, "token": "[SEP]"})
    with pytest.raises(ValueError, match=r"expanded with the mask token, got '\[SEP\]'"):
        OpticalProcessor.from_pretrained(checkpoint)


def test_activation_raises(checkpoint):
    edit(checkpoint / "1_Dense" / "config.json", activation_function="torch.nn.modules.activation.Tanh")
    with pytest.raises(ValueError, match="must be a linear projection, got .*Tanh"):
        OpticalModel.from_pretrained(checkpoint)
