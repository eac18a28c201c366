import pytest
import torch
from peft import LoraConfig
from tiny import ARCHITECTURES, tiny_checkpoint
from torch import nn

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.languages import (
    Vocabulary,
    activate,
    active_language,
    add_adapter,
    default_lora_config,
    languages,
    make_trainable,
    remove,
)
from hf_optical.languages.adapters import use_language


TEXTS = ["Kwa nini unaendesha haraka?", "Basi.", "The driver is here, with a bus full of passengers."]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param, projection_dim=16)


def vectors(model, processor):
    with torch.no_grad():
        return model(**processor.documents(TEXTS)).embeddings


def disturb(model, language):
    """Give an adapter random weights, since a new one changes nothing."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f"language_{language}" in name:
                weight.normal_(std=0.3)


@pytest.fixture
def opened(tiny_model, tiny_processor):
    return tiny_model, tiny_processor, vectors(tiny_model, tiny_processor)


def test_adapters_do_not_change_the_base(checkpoint):
    model, processor = OpticalModel.from_pretrained(checkpoint), OpticalProcessor.from_pretrained(checkpoint)
    before, fingerprint = vectors(model, processor), model.fingerprint()

    add_adapter(model, "ha", default_lora_config(model))
    model.eval()
    assert torch.equal(vectors(model, processor), before)  # a new adapter is the identity
    disturb(model, "ha")
    assert not torch.allclose(vectors(model, processor), before, atol=1e-2)
    assert model.fingerprint() == fingerprint
    activate(model, None)
    assert torch.equal(vectors(model, processor), before)

    remove(model, "ha")
    assert torch.equal(vectors(model, processor), before)
    assert model.fingerprint() == fingerprint
    assert languages(model) == []


def test_gradients_reach_only_trainable_weights(checkpoint):
    model, processor = OpticalModel.from_pretrained(checkpoint), OpticalProcessor.from_pretrained(checkpoint)
    add_adapter(model, "ha", default_lora_config(model, rank=4))
    disturb(model, "ha")
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name and "language_ha" in name for name in trainable)
    assert any("embeddings" in name for name in trainable)
    assert not any("pooler" in name or "projection" in name for name in trainable)

    output = model.train()(**processor.documents(TEXTS))
    (output.embeddings * torch.randn_like(output.embeddings))[output.mask].sum().backward()
    for name, weight in model.named_parameters():
        if name in trainable:
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name
        else:
            assert weight.grad is None, name


def test_all_linear_layers_but_the_pooler_are_adapted(tiny_model):
    model = tiny_model
    linear = {name for name, module in model.encoder.named_modules() if isinstance(module, nn.Linear)}
    assert "pooler.dense" in linear
    add_adapter(model, "ha", default_lora_config(model, embeddings=False))
    wrapped = {
        name.removesuffix(".base_layer") for name, _ in model.encoder.named_modules() if name.endswith(".base_layer")
    }
    assert wrapped == linear - {"pooler.dense"}


def test_default_lora_config_has_the_given_settings(tiny_model):
    config = default_lora_config(tiny_model)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (32, 32, 0.0)
    assert config.target_modules == {"dense", "key", "query", "value", "word_embeddings"}
    config = default_lora_config(tiny_model, rank=4, alpha=8.0, dropout=0.1, targets=["query"], embeddings=False)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8.0, 0.1)
    assert config.target_modules == {"query"}


def test_second_language_gets_the_same_config(tiny_model):
    first = default_lora_config(tiny_model)
    add_adapter(tiny_model, "ha", first)
    second = default_lora_config(tiny_model)
    assert (second.target_modules, second.exclude_modules) == (first.target_modules, first.exclude_modules)


def test_two_languages_are_independent(opened):
    model, processor, base = opened
    add_adapter(model, "ha", default_lora_config(model))
    disturb(model, "ha")
    model.eval()
    hausa = vectors(model, processor)

    # On other layers and with another rank, so that some layers have only one adapter.
    add_adapter(model, "yo", LoraConfig(task_type="FEATURE_EXTRACTION", r=3, target_modules=["query"]))
    disturb(model, "yo")
    model.eval()
    yoruba = vectors(model, processor)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and "language_ha" in name] == []

    for language, expected in [("ha", hausa), (None, base), ("yo", yoruba), ("ha", hausa), ("yo", yoruba)]:
        activate(model, language)
        assert active_language(model) == language
        assert torch.equal(vectors(model, processor), expected)
    assert len({tuple(each.flatten().tolist()) for each in (base, hausa, yoruba)}) == 3

    remove(model, "ha")  # not active, so the active one stays
    assert (languages(model), active_language(model)) == (["yo"], "yo")
    assert torch.equal(vectors(model, processor), yoruba)


def test_use_language_restores_the_previous_language(opened):
    model, processor, base = opened
    for language in ("ha", "yo"):
        add_adapter(model, language, default_lora_config(model))
        disturb(model, language)
    model.eval()
    yoruba = vectors(model, processor)
    with use_language(model, None):
        assert torch.equal(vectors(model, processor), base)
        with pytest.raises(ZeroDivisionError), use_language(model, "ha"):
            assert active_language(model) == "ha"
            1 / 0  # noqa: B018
        assert active_language(model) is None
        with pytest.raises(KeyError, match="no pack for language 'sw' is open"), use_language(model, "sw"):
            pass
    assert torch.equal(vectors(model, processor), yoruba)


def trainable(model) -> set[str]:
    """Languages with trainable weights, `not LANGUAGE` for those with others, and `base` for the base."""
    found = set()
    for name, weight in model.named_parameters():
        own = [part for part in name.split(".") if part.startswith("language_")]
        if weight.requires_grad:
            found.add(own[0].removeprefix("language_") if own else "base")
        elif own:
            found.add(f"not {own[0].removeprefix('language_')}")
    return found


def test_activating_a_language_does_not_change_what_is_trainable(opened):
    model = opened[0]
    for language in ("lo", "yo", "ha"):
        vocabulary = Vocabulary([f"neno{language}"], torch.ones(1, 32))
        add_adapter(model, language, default_lora_config(model, rank=2, embeddings=False), vocabulary)
        assert trainable(model) == {language} | {f"not {other}" for other in languages(model) if other != language}
    for chosen in (["lo", "yo"], [], ["ha"], ["ha", "lo", "yo"]):
        make_trainable(model, iter(chosen))
        expected = {code if code in chosen else f"not {code}" for code in ("lo", "yo", "ha")}
        for language in ("yo", None, "lo", "ha"):
            activate(model, language)
            assert trainable(model) == expected
    make_trainable(model, ["lo", "yo"])
    remove(model, "ha")
    assert trainable(model) == {"lo", "yo"}
    with pytest.raises(KeyError, match="'ha' is open"):
        make_trainable(model, ["lo", "ha"])


def test_removing_the_active_language_activates_the_base(opened):
    model, processor, base = opened
    for language in ("ha", "yo"):
        add_adapter(model, language, default_lora_config(model, rank=2))
        disturb(model, language)
    model.eval()
    yoruba = vectors(model, processor)
    activate(model, "ha")
    remove(model, "ha")
    assert (languages(model), active_language(model)) == (["yo"], None)
    assert torch.equal(vectors(model, processor), base)
    activate(model, "yo")
    assert torch.equal(vectors(model, processor), yoruba)


def test_language_added_again_is_new(opened):
    model, processor, base = opened
    for _ in range(2):
        add_adapter(model, "ha", default_lora_config(model))
        assert torch.equal(vectors(model.eval(), processor), base)
        disturb(model, "ha")
        assert not torch.equal(vectors(model, processor), base)
        remove(model, "ha")


def test_config_can_be_used_for_two_models(tiny, tiny_model):
    config = default_lora_config(tiny_model)
    before = config.to_dict()
    add_adapter(tiny_model, "ha", config)
    add_adapter(OpticalModel.from_pretrained(tiny), "ha", config)
    assert config.to_dict() == before


@pytest.mark.parametrize("language", ["lo", "sr_Latn", "lora"])
def test_codes_inside_names_of_peft_work(opened, language):
    model, processor, base = opened
    assert active_language(model) is None
    activate(model, None)  # without any adapter
    for code in (language, "sw"):
        add_adapter(model, code, default_lora_config(model, rank=2))
        disturb(model, code)
    assert languages(model) == [language, "sw"]
    activate(model, language)
    assert active_language(model) == language
    remove(model, "sw")
    remove(model, language)
    assert active_language(model) is None
    assert torch.equal(vectors(model.eval(), processor), base)


@pytest.mark.parametrize("language", ["", "a.b", None, "../x", "ha\n"])
def test_invalid_language_codes_raise(tiny_model, language):
    with pytest.raises(ValueError, match="language must be a code such as 'ha'"):
        add_adapter(tiny_model, language, default_lora_config(tiny_model))
    assert languages(tiny_model) == []


def test_existing_and_unknown_languages_raise(tiny_model):
    add_adapter(tiny_model, "ha", default_lora_config(tiny_model))
    with pytest.raises(ValueError, match="'ha' already; remove it first"):
        add_adapter(tiny_model, "ha", default_lora_config(tiny_model))
    for act in (activate, remove):
        with pytest.raises(KeyError, match="'yo' is open .open: ha.; add it first"):
            act(tiny_model, "yo")
    assert active_language(tiny_model) == "ha"


@pytest.mark.promise(
    "Safety",
    "Unsupported LoRA settings raise an error before training too, so that every trained pack can be opened.",
)
@pytest.mark.parametrize(
    "setting", [{"target_modules": r"(a+)+b"}, {"init_lora_weights": "pissa"}, {"modules_to_save": ["pooler"]}]
)
def test_unsupported_settings_raise_before_training(tiny_model, setting):
    before = tiny_model.fingerprint()
    with pytest.raises(ValueError, match=f"need PEFT's defaults for {next(iter(setting))}; change"):
        add_adapter(tiny_model, "sw", LoraConfig(**{"target_modules": ["query"], **setting}))
    assert (languages(tiny_model), tiny_model.fingerprint()) == ([], before)
