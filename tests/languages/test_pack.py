import json
import shutil

import pytest
import torch
from peft import PeftModel
from tiny import tiny_checkpoint
from transformers import AutoModel

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor
from hf_optical.languages import activate, active_language, add_adapter, default_lora_config, languages
from hf_optical.languages.pack import is_pack


FILES = ["adapter_config.json", "adapter_model.safetensors", "language_pack.json"]
TEXTS = ["Kwa nini unaendesha haraka?", "The driver is here, with a bus full of passengers."]


def adapted(folder, language="sw", **settings):
    """A model whose adapter has random weights, lora_B too, as after training."""
    model = OpticalModel.from_pretrained(folder)
    add_adapter(model, language, default_lora_config(model, **settings))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return model.eval()


def vectors(model, folder):
    with torch.no_grad():
        return model(**OpticalProcessor.from_pretrained(folder).queries(TEXTS)).embeddings


@pytest.fixture(scope="module")
def model(tiny):
    return adapted(tiny, rank=4)


@pytest.fixture
def pack(model):
    return LanguagePack.from_model(model, "sw", roles={"query_length": 20}, details={"teacher": "t", "pairs": 3})


@pytest.fixture
def saved(pack, tmp_path):
    pack.save_pretrained(tmp_path / "pack")
    return tmp_path / "pack"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "deberta-v2", "distilbert"])
def test_saved_and_attached_to_a_fresh_base_nothing_changes(tmp_path, architecture):
    folder = tiny_checkpoint(tmp_path / "base", architecture, projection_dim=16)
    model = adapted(folder, rank=3, alpha=5.0)
    LanguagePack.from_model(model, "sw").save_pretrained(tmp_path / "pack")

    fresh = OpticalModel.from_pretrained(folder)
    base = vectors(fresh, folder)
    LanguagePack.from_pretrained(tmp_path / "pack").attach(fresh)
    assert active_language(fresh) == "sw"
    assert not fresh.training and not any(module.training for module in fresh.modules())
    assert torch.equal(vectors(fresh, folder), vectors(model, folder))
    assert not torch.allclose(vectors(fresh, folder), base, atol=1e-2)
    activate(fresh, None)
    assert torch.equal(vectors(fresh, folder), base)

    # PEFT knows nothing of this library and reads the same.
    inputs = {name: OpticalProcessor.from_pretrained(folder).queries(TEXTS)[name] for name in ("input_ids",)}
    peft_model = PeftModel.from_pretrained(AutoModel.from_pretrained(folder, dtype=torch.float32), tmp_path / "pack")
    with torch.no_grad():
        difference = peft_model.eval()(**inputs).last_hidden_state - model.encoder(**inputs).last_hidden_state
    assert difference.abs().max() <= 1e-6


def test_what_is_read_is_what_was_written(pack, saved, tiny, model):
    read = LanguagePack.from_pretrained(saved)
    for name in ("language", "base_model", "base_revision", "base_fingerprint", "roles", "details"):
        assert getattr(read, name) == getattr(pack, name), name
    assert read.language == "sw"
    assert read.base_model == str(tiny)
    assert read.base_fingerprint == model.fingerprint() == OpticalModel.from_pretrained(tiny).fingerprint()
    assert read.weights.keys() == pack.weights.keys()
    assert all(torch.equal(read.weights[name], weight) for name, weight in pack.weights.items())
    assert (read.lora_config.r, read.lora_config.target_modules) == (4, pack.lora_config.target_modules)
    assert is_pack(saved) and not is_pack(tiny)


def test_saved_twice_the_bytes_are_the_same(pack, saved, tmp_path):
    LanguagePack.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in saved.iterdir()) == FILES
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_saving_touches_neither_the_model_nor_what_else_is_in_the_folder(model, pack, tmp_path):
    config = model.encoder.peft_config["language_sw"].to_dict()
    (tmp_path / "README.md").write_text("mine")
    pack.save_pretrained(tmp_path)
    assert model.encoder.peft_config["language_sw"].to_dict() == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", *FILES]


def test_a_pack_is_a_copy(tiny):
    model = adapted(tiny, rank=2)
    pack = LanguagePack.from_model(model, "sw")
    before = {name: weight.clone() for name, weight in pack.weights.items()}
    trained = vectors(model, tiny)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 if not weight.requires_grad else 3)
    assert all(torch.equal(pack.weights[name], weight) for name, weight in before.items())
    assert not torch.equal(vectors(model, tiny), trained)
    pack.load_into(model)
    assert torch.equal(vectors(model, tiny), trained)


def test_made_from_a_state_dict_it_is_the_same(model, pack):
    gathered = LanguagePack.from_model(model, "sw", state_dict=model.state_dict(), base_fingerprint="known")
    assert gathered.base_fingerprint == "known"
    assert gathered.weights.keys() == pack.weights.keys()
    assert all(torch.equal(gathered.weights[name], weight) for name, weight in pack.weights.items())


def test_size_is_that_of_the_file(tiny, tmp_path):
    pack = LanguagePack.from_model(adapted(tiny, rank=32), "sw")
    pack.save_pretrained(tmp_path)
    # A tiny model has as many weights to name as a real one, and few numbers in each.
    header = 8 + int.from_bytes((tmp_path / FILES[1]).read_bytes()[:8], "little")
    assert pack.num_bytes() == (tmp_path / FILES[1]).stat().st_size - header
    assert pack.num_bytes() == sum(4 * weight.numel() for weight in pack.weights.values())


def test_only_one_language_is_in_a_pack(tiny, tmp_path):
    model = adapted(tiny, "ha", rank=2)
    add_adapter(model, "yo", default_lora_config(model, rank=3))
    for language, rank in (("ha", 2), ("yo", 3)):
        pack = LanguagePack.from_model(model, language)
        assert pack.lora_config.r == rank
        assert not any("language_" in name for name in pack.weights)
        pack.attach(OpticalModel.from_pretrained(tiny))


def test_attaching_keeps_the_mode_and_leaves_only_the_adapter_trainable(pack, tiny):
    fresh = OpticalModel.from_pretrained(tiny).train()
    pack.attach(fresh)
    assert all(module.training for module in fresh.modules())
    assert all(".lora_" in name for name, weight in fresh.named_parameters() if weight.requires_grad)


def test_another_base_is_refused_with_both_names(pack, tiny, tmp_path):
    other = OpticalModel.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=f"'sw' was trained on {tiny} .*but the model is {tmp_path / 'other'} "):
        pack.attach(other)
    assert languages(other) == []


def test_one_pack_a_language(pack, tiny):
    fresh = OpticalModel.from_pretrained(tiny)
    pack.attach(fresh)
    with pytest.raises(ValueError, match="'sw' already"):
        pack.attach(fresh)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused_and_the_model_left_alone(pack, tiny, change):
    first = next(iter(pack.weights))
    if change == "missing":
        del pack.weights[first]
    elif change == "unexpected":
        pack.weights["encoder.layer.9.lora_A.weight"] = torch.zeros(4, 32)
    else:
        pack.weights[first] = torch.zeros(1, 2)
    fresh = OpticalModel.from_pretrained(tiny)
    base = vectors(fresh, tiny)
    with pytest.raises(ValueError, match="'sw' does not fit its adapter: "):
        pack.attach(fresh)
    assert languages(fresh) == []
    assert torch.equal(vectors(fresh, tiny), base)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(OSError, match=f"looked for {name}, found"):
        LanguagePack.from_pretrained(saved)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_weights_cut_short_or_changed(saved, damage):
    file = saved / "adapter_model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OSError, match="adapter_model.safetensors is missing, cut short or changed; fetch or save"):
        LanguagePack.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2, "novelty": []}, "newer hf_optical; update"),
        ({"format": None}, "does not describe a language pack"),
        ({"format": "1"}, "does not describe a language pack"),
        ({"language": None}, "language missing or of the wrong kind"),
        ({"language": "../x"}, "'../x' is no language code"),
        ({"base_model": None, "roles": "query"}, "base_model, roles missing or of the wrong kind"),
        ({"weights_sha256": 5}, "weights_sha256 missing"),
    ],
)
def test_a_description_that_makes_no_sense(saved, change, reason):
    file = saved / "language_pack.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(OSError, match=f"language_pack.json .*{reason}"):
        LanguagePack.from_pretrained(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}"])
@pytest.mark.parametrize("name", ["language_pack.json", "adapter_config.json"])
def test_json_that_is_damaged(saved, name, content):
    (saved / name).write_text(content)
    with pytest.raises(OSError, match=f"{name}.*(save the pack again|fetch it again)"):
        LanguagePack.from_pretrained(saved)


@pytest.mark.parametrize("key", ["format", "language", "base_model", "base_fingerprint", "weights_sha256", "details"])
def test_every_entry_is_asked_for(saved, key):
    file = saved / "language_pack.json"
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(OSError, match="language_pack.json"):
        LanguagePack.from_pretrained(saved)


def test_an_adapter_of_another_kind(saved):
    (saved / "adapter_config.json").write_text('{"peft_type": "IA3", "target_modules": ["key"]}')
    with pytest.raises(OSError, match="adapter_config.json describes no LoRA adapter"):
        LanguagePack.from_pretrained(saved)


def test_a_folder_moved_still_opens(saved, tmp_path, tiny):
    moved = shutil.move(saved, tmp_path / "elsewhere")
    LanguagePack.from_pretrained(moved).attach(OpticalModel.from_pretrained(tiny))


def test_it_can_be_pushed():
    assert callable(LanguagePack.push_to_hub)
