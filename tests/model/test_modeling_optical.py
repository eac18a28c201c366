from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peers import open_both, peer_difference
from safetensors.torch import load_file
from tiny import ARCHITECTURES, CHECKPOINTING, MINILM, SMALL, tiny_checkpoint, tiny_tokenizer, weights
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor
from hf_optical.languages.adapters import add_adapter, default_lora_config
from hf_optical.storage.fetching import packaged_copy


TEXTS = [
    "The river rises in the hills.",
    "Where?",
    "A long sentence with many words, commas, and 3 numbers: 12, 34 and 56; then « quotes » and an end!",
    "Mto unaanza wapi?",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request, tmp_path_factory) -> Path:
    """A checkpoint of each architecture, some with and some without projection."""
    size = None if request.param in ("bert", "modernbert") else 16
    return tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param, projection_dim=size)


def add_trained_adapter(model: OpticalModel, language: str = "sw") -> None:
    """Add an adapter with random weights. A new LoRA would change nothing."""
    add_adapter(model, language, default_lora_config(model, rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.2)


def saved_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@torch.no_grad()
def embed(model, batch):
    return model(**batch).embeddings


def test_save_and_load_preserve_everything(checkpoint, tmp_path, quiet):
    model, processor = open_both(checkpoint)
    model.save_pretrained(tmp_path)
    copy = OpticalModel.from_pretrained(tmp_path)
    for name, weight in weights(model).items():
        assert torch.equal(weight, copy.state_dict()[name]), name
    assert set(weights(copy)) == set(weights(model))
    assert copy.fingerprint() == model.fingerprint() == OpticalModel.from_pretrained(checkpoint).fingerprint()
    batch = processor.documents(TEXTS)
    assert (embed(model, batch) - embed(copy, batch)).abs().max() == 0.0
    for opened in (model, copy):
        opened.config.encoder_config._name_or_path = opened.config._name_or_path = ""
    assert copy.config.to_dict() == model.config.to_dict()
    assert not copy.training


def test_transformers_opens_the_encoder_with_all_weights(checkpoint, quiet):
    encoder, report = AutoModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    model = OpticalModel.from_pretrained(checkpoint)
    assert encoder.state_dict().keys() == model.encoder.state_dict().keys()
    assert AutoConfig.from_pretrained(checkpoint).architectures == [type(encoder).__name__]


def test_saving_twice_writes_the_same_bytes(checkpoint, tmp_path):
    model, processor = open_both(checkpoint)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "once")
        part.save_pretrained(tmp_path / "once")
    again = open_both(tmp_path / "once")
    for part in again:
        part.save_pretrained(tmp_path / "again")
    assert saved_files(tmp_path / "once") == saved_files(tmp_path / "again")
    # This includes the first save of a model created from a configuration. (transformers records in
    # `tokenizer_config.json` that a tokenizer was loaded from a folder.)
    first, later = saved_files(checkpoint), saved_files(tmp_path / "once")
    assert first.keys() == later.keys()
    assert [name for name in first if first[name] != later[name]] == ["tokenizer_config.json"]


def test_saving_with_adapters_writes_the_bare_base(checkpoint, tmp_path, quiet):
    model = OpticalModel.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "bare")
    add_trained_adapter(model, "sw")
    add_trained_adapter(model, "ha")
    model.save_pretrained(tmp_path / "adapted")
    assert saved_files(tmp_path / "bare") == saved_files(tmp_path / "adapted")
    model.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
    assert saved_files(tmp_path / "bare") == saved_files(tmp_path / "given")


def test_fingerprint_changes_with_a_single_bit(tiny):
    model = OpticalModel.from_pretrained(tiny)
    fingerprints = {model.fingerprint()}
    for weight in model.state_dict().values():
        weight.view(torch.int32).view(-1)[-1] ^= 1
        fingerprints.add(model.fingerprint())
    assert len(fingerprints) == 1 + len(model.state_dict())


def test_fingerprint_depends_on_names_and_types(tiny):
    model = OpticalModel.from_pretrained(tiny)
    assert model.fingerprint() != OpticalModel.from_pretrained(tiny, dtype=torch.bfloat16).fingerprint()
    layers = model.encoder.encoder.layer
    before = model.fingerprint()
    layers[0], layers[1] = layers[1], layers[0]
    assert model.fingerprint() != before


def test_embeddings_are_unit_vectors_independent_of_padding_and_batch(checkpoint):
    model, processor = open_both(checkpoint)
    add_trained_adapter(model)
    model.eval()
    together = processor.documents(TEXTS)
    output = model(**together)
    assert output.embeddings.shape == (*together["input_ids"].shape, model.embedding_dim)
    assert torch.equal(output.mask, together["token_mask"])
    lengths = output.embeddings.norm(dim=-1)[together["attention_mask"].bool()]
    assert (lengths - 1).abs().max() <= 1e-6
    wider = processor.pad([together, processor.documents([" ".join(TEXTS)])])
    padded = embed(model, {name: tensor[: len(TEXTS)] for name, tensor in wider.items()})
    assert padded.shape[1] > output.embeddings.shape[1]
    for row, text in enumerate(TEXTS):
        alone = embed(model, processor.documents([text]))[0]
        for other in (output.embeddings[row], padded[row]):
            assert (other[: len(alone)] - alone).abs().max() <= 1e-6, text


def test_half_precision_models_return_float32(checkpoint):
    model, processor = open_both(checkpoint)
    batch = processor.documents(TEXTS)
    reference = embed(model, batch)
    half = OpticalModel.from_pretrained(checkpoint, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = embed(model, batch)
    real = batch["attention_mask"].bool()
    for found in (embed(half, batch), mixed):
        assert found.dtype == torch.float32
        assert (found[real].norm(dim=-1) - 1).abs().max() <= 1e-6
        assert 0 < (found - reference)[real].abs().max() < 0.1


def test_half_precision_survives_saving(tiny, tmp_path):
    OpticalModel.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert {weight.dtype for weight in OpticalModel.from_pretrained(tmp_path).parameters()} == {torch.float32}


def test_dtype_accepts_names_and_the_alias_of_transformers(tiny, tmp_path):
    for name in ("bfloat16", "torch.bfloat16"):
        assert OpticalModel.from_pretrained(tiny, dtype=name).dtype == torch.bfloat16
    assert OpticalModel.from_pretrained(tiny, dtype="auto").dtype == torch.float32
    assert OpticalModel.from_pretrained(tiny, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert OpticalModel.from_pretrained(tiny, torch_dtype=None).dtype == torch.float32
    OpticalModel.from_pretrained(tiny, dtype="bfloat16", projection_dim=8).save_pretrained(tmp_path)
    opened = OpticalModel.from_pretrained(tmp_path, dtype="auto")
    assert {weight.dtype for weight in opened.parameters()} == {torch.bfloat16}
    for wrong in ("bf16", "int8", torch.int8, "Tensor", "", 3, None):
        with pytest.raises(ValueError, match=f"dtype must be a floating-point type of torch, .* got {wrong!r}"):
            OpticalModel.from_pretrained(tiny, dtype=wrong)


def test_only_safetensors_can_be_asked_for(tiny):
    assert OpticalModel.from_pretrained(tiny, use_safetensors=True).dtype == torch.float32
    with pytest.raises(ValueError, match="use_safetensors must be True, got False"):
        OpticalModel.from_pretrained(tiny, use_safetensors=False)


def test_resized_word_embeddings_survive_saving(tiny, tmp_path):
    model, processor = open_both(tiny)
    processor.tokenizer.add_tokens(["[Q]"])
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    again = OpticalModel.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert again.fingerprint() == model.fingerprint()


def test_gradient_checkpointing_gives_the_same_gradients(checkpoint):
    model, processor = open_both(checkpoint)
    add_trained_adapter(model)
    model.train()
    batch = processor.documents(TEXTS)
    target = torch.randn(*batch["input_ids"].shape, model.embedding_dim)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        model.zero_grad()
        torch.manual_seed(0)  # the same dropout
        (model(**batch).embeddings * target).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0] and all(".lora_" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() <= 1e-6, name
        assert gradient.abs().max() > 0, name


def test_every_trainable_weight_has_a_gradient(checkpoint):
    """Distributed training waits for all of them."""
    model, processor = open_both(checkpoint)
    model.train()
    model(**processor.documents(TEXTS)).embeddings[..., 0].sum().backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []


def test_token_mask_defaults_to_attention_mask(tiny_model, tiny_processor):
    batch = tiny_processor.documents(TEXTS)
    output = tiny_model(batch["input_ids"], batch["attention_mask"])
    assert output.mask.dtype == torch.bool
    assert torch.equal(output.mask, batch["attention_mask"].bool())
    part = output.rows(1, 3)
    assert torch.equal(part.embeddings, output.embeddings[1:3]) and torch.equal(part.mask, output.mask[1:3])


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_more_tokens_than_positions_raise(tmp_path, architecture):
    """XLM-R reserves two of its 514 positions, for padding and for the position before it."""
    limit = 512
    model, processor = open_both(tiny_checkpoint(tmp_path, architecture, document_length=limit + 1))
    embed(model, {name: tensor[:, :limit] for name, tensor in processor.documents(["word " * 600]).items()})
    with pytest.raises(ValueError, match=f"at most {limit} tokens, .* got {limit + 1}; .*document_length={limit}"):
        embed(model, processor.documents(["word " * 600]))


@pytest.mark.promise(
    "Safety",
    "A token id without a word embedding, from a damaged `tokenizer.json` or the processor of another model, "
    "raises an error that gives the id (on a CPU).",
)
def test_token_without_embedding_raises_with_its_id(tiny_model, tiny_processor):
    rows = tiny_model.get_input_embeddings().num_embeddings
    inputs = tiny_processor.queries(["maji", "maji ya baridi"])
    inputs["input_ids"][1, 2] = rows
    with pytest.raises(IndexError, match=f"token id {rows} has no word embedding; use the processor of this model"):
        tiny_model(**inputs)


def test_computed_positions_have_no_limit(tmp_path):
    tiny_checkpoint(tmp_path, "modernbert", document_length=60)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16}))
    model, processor = open_both(tmp_path)
    output = embed(model, processor.documents(["word " * 60]))
    assert output.shape[1] == 60 and torch.isfinite(output).all()


def test_new_projection_preserves_angles(tiny):
    model = OpticalModel.from_pretrained(tiny, projection_dim=16)
    rows = model.projection.weight
    assert rows.shape == (16, 32) and model.projection.bias is None
    assert (rows @ rows.T - torch.eye(16)).abs().max() <= 1e-6
    assert model.embedding_dim == 16


def test_projection_with_bias_survives_saving(tmp_path):
    config = OpticalConfig(
        encoder_config=AutoConfig.for_model("bert", **SMALL, vocab_size=50), projection_dim=8, projection_bias=True
    )
    model = OpticalModel(config)
    assert not model.projection.bias.any()
    torch.nn.init.normal_(model.projection.bias)
    model.save_pretrained(tmp_path)
    assert torch.equal(OpticalModel.from_pretrained(tmp_path).projection.bias, model.projection.bias)


def test_projection_dim_other_than_the_stored_one_raises(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=16)
    assert OpticalModel.from_pretrained(tmp_path, projection_dim=16).embedding_dim == 16
    with pytest.raises(ValueError, match="projection_dim must be 16 or None, since .* got 8"):
        OpticalModel.from_pretrained(tmp_path, projection_dim=8)


def test_attention_implementation_is_passed_to_the_encoder(tiny):
    model = OpticalModel.from_pretrained(tiny, attn_implementation="eager")
    assert model.encoder.config._attn_implementation == "eager"


def test_missing_pooler_is_not_initialised_at_random(tmp_path, quiet):
    """Language models have no pooler. Random weights would change the fingerprint each time."""
    tokenizer = tiny_tokenizer("wordpiece")
    config = AutoConfig.for_model("bert", **SMALL, vocab_size=len(tokenizer))
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = OpticalModel.from_pretrained(tmp_path)
    assert model.encoder.pooler is None
    model.save_pretrained(tmp_path / "saved")
    assert OpticalModel.from_pretrained(tmp_path / "saved").fingerprint() == model.fingerprint()


def test_language_model_opens_without_its_head(tmp_path):
    tokenizer = tiny_tokenizer("wordpiece")
    language_model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **SMALL, vocab_size=len(tokenizer)))
    language_model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch = OpticalProcessor.from_pretrained(tmp_path).documents(TEXTS)
    found = embed(OpticalModel.from_pretrained(tmp_path), batch)
    with torch.no_grad():
        hidden = language_model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    difference = found - torch.nn.functional.normalize(hidden, dim=-1)
    assert difference[batch["attention_mask"].bool()].abs().max() <= 1e-6


def test_sharded_weights_open(tiny, tmp_path):
    model, processor = open_both(tiny)
    model.encoder.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert OpticalModel.from_pretrained(tmp_path).fingerprint() == model.fingerprint()


# Comparison with other libraries.


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    model, processor = open_both(MINILM)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


HARD = [
    "Where does the Nile begin?",
    "！。، « » “quotes” — dashes… and 漢字 ምን ጊዜ",
    "long " * 600,
    "Ẹ káàárọ̀, ṣé dáadáa ni?",
]


def test_minilm_equals_automodel_with_normalisation(minilm):
    model, processor, _ = minilm
    folder = packaged_copy(MINILM)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text in HARD:
        ids = tokenizer(text, truncation=True, max_length=256, padding=False, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder(**ids).last_hidden_state
        expected = hidden / hidden.norm(dim=-1, keepdim=True)
        batch = processor.documents([text])
        assert torch.equal(batch["input_ids"], ids["input_ids"])
        assert (embed(model, batch) - expected).abs().max() <= 1e-6


def test_minilm_gives_the_same_vectors_in_sentence_transformers(minilm):
    assert peer_difference(minilm[2], HARD) <= 1e-6


@pytest.mark.parametrize(
    ("architecture", "roles"),
    [
        ("xlm-roberta", {"query_expansion": True, "query_length": 24}),
        ("bert", {"query_expansion": True, "query_length": 24, "attend_to_expansion": True}),
        ("bert", {"query_length": 12, "document_length": 20, "skip_tokens": ["the", "with"]}),
    ],
    ids=str,
)
def test_settings_have_the_same_effect_in_sentence_transformers(tmp_path, architecture, roles):
    tiny_checkpoint(tmp_path, architecture, projection_dim=16, **roles)
    assert peer_difference(tmp_path, HARD) <= 1e-6


def test_markers_have_the_same_effect_in_sentence_transformers(tmp_path):
    tokenizer = tiny_tokenizer("wordpiece")
    tokenizer.add_special_tokens({"extra_special_tokens": ["[Q]", "[D]"]})
    config = AutoConfig.for_model("bert", **SMALL, vocab_size=len(tokenizer))
    OpticalModel(OpticalConfig(encoder_config=config, projection_dim=16)).save_pretrained(tmp_path)
    OpticalProcessor(tokenizer, query_marker="[Q]", document_marker="[D]").save_pretrained(tmp_path)
    processor = OpticalProcessor.from_pretrained(tmp_path)
    assert processor.queries(["a"])["input_ids"][0, 1] == tokenizer.convert_tokens_to_ids("[Q]")
    assert peer_difference(tmp_path, HARD) <= 1e-6
