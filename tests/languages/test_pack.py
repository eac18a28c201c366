import hashlib
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from packs import make_pack
from peft import LoraConfig, PeftModel
from safetensors.torch import save
from tiny import demo_pairs, tiny_checkpoint, weights
from torch import nn
from transformers import AutoModel

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.languages import (
    Vocabulary,
    activate,
    active_language,
    add_adapter,
    default_lora_config,
    extend_processor,
    languages,
)
from hf_optical.languages.pack import is_pack
from hf_optical.storage.staging import staged_directory


FILES = ["adapter_config.json", "adapter_model.safetensors", "language_pack.json"]
VOCABULARY = "vocabulary.safetensors"
OTHER = save({"other": torch.zeros(2, 32)})
TEXTS = ["Kwa nini unaendesha haraka?", "The driver is here, with a bus full of passengers."]


def adapted(folder, language="sw", words=(), **settings):
    """A model with an adapter of random weights, including lora_B, as after training."""
    model = OpticalModel.from_pretrained(folder)
    vocabulary = Vocabulary(list(words), torch.zeros(len(words), 32)) if words else None
    add_adapter(model, language, default_lora_config(model, embeddings=not words, **settings), vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return model.eval()


def anatomy(model):
    """Everything about a model that adding a language could change, except room for new words."""
    empty = [name for name, module in model.named_modules() if name.endswith(".rows") and len(module) == 0]
    return {
        "modules": {
            name: (nn.Embedding if f"{name}.rows" in empty else type(module), module.training)
            for name, module in model.named_modules()
            if name not in empty
        },
        "trainable": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "languages": (languages(model), active_language(model)),
        "loaded": model.encoder._hf_peft_config_loaded,
    }


INVALID_ROLES = [
    *(("query_length", value) for value in (10**9, "5", float("nan"))),
    *(("query_prompt", "\ud800"), ("query_marker", ["a"]), ("query_expansion", "no")),
]


def sign(folder, **changes):
    """Change entries of `language_pack.json`, and update its hashes of the files."""
    file = folder / "language_pack.json"
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path != file}
    file.write_text(json.dumps({**json.loads(file.read_text()), "sha256": digests, **changes}))


def vectors(model, folder):
    with torch.no_grad():
        return model(**OpticalProcessor.from_pretrained(folder).queries(TEXTS)).embeddings


@pytest.fixture(scope="module")
def model(tiny):
    return adapted(tiny, rank=4)


@pytest.fixture(scope="module")
def pack(model):
    return LanguagePack.from_model(model, "sw", roles={"query_length": 20}, details={"teacher": "t", "pairs": 3})


@pytest.fixture(scope="module")
def with_words(tiny):
    return LanguagePack.from_model(adapted(tiny, words=["mazuqa", "kitxbu"], rank=4), "sw")


@pytest.fixture
def saved(pack, tmp_path):
    pack.save_pretrained(tmp_path / "pack")
    return tmp_path / "pack"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # from PEFT
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "deberta-v2"])
def test_saved_pack_on_a_fresh_base_gives_the_same_vectors(tmp_path, architecture):
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

    # PEFT alone gives the same vectors.
    inputs = {name: OpticalProcessor.from_pretrained(folder).queries(TEXTS)[name] for name in ("input_ids",)}
    peft_model = PeftModel.from_pretrained(AutoModel.from_pretrained(folder, dtype=torch.float32), tmp_path / "pack")
    with torch.no_grad():
        difference = peft_model.eval()(**inputs).last_hidden_state - model.encoder(**inputs).last_hidden_state
    assert difference.abs().max() <= 1e-6


def test_pack_survives_saving(pack, saved, tiny, model):
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


def test_saving_twice_writes_the_same_bytes(pack, saved, tmp_path):
    LanguagePack.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in saved.iterdir()) == FILES
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_saving_changes_neither_the_model_nor_other_files(model, pack, tmp_path):
    config = model.encoder.peft_config["language_sw"].to_dict()
    (tmp_path / "README.md").write_text("mine")
    pack.save_pretrained(tmp_path)
    assert model.encoder.peft_config["language_sw"].to_dict() == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", *FILES]


def test_pack_is_a_copy_of_the_weights(tiny):
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


def test_from_model_uses_the_weights_of_a_state_dict(tiny):
    model = adapted(tiny, words=["mazuqa", "kitxbu"], rank=4)
    add_adapter(
        model, "sw-KE", default_lora_config(model, rank=2, embeddings=False), Vocabulary(["a"], torch.ones(1, 32))
    )
    gathered = {name: weight + 1 for name, weight in weights(model).items()}
    here, there = (LanguagePack.from_model(model, "sw", state_dict=source) for source in (None, gathered))
    assert torch.equal(there.vocabulary.rows, here.vocabulary.rows + 1)
    assert there.vocabulary.tokens == here.vocabulary.tokens == ["mazuqa", "kitxbu"]
    assert there.weights.keys() == here.weights.keys()
    assert all(torch.equal(there.weights[name], weight + 1) for name, weight in here.weights.items())
    del gathered["encoder.embeddings.word_embeddings.rows.language_sw"]
    known = LanguagePack.from_model(model, "sw", state_dict=weights(model), base_fingerprint="known")
    assert known.base_fingerprint == "known"
    assert all(torch.equal(known.weights[name], weight) for name, weight in here.weights.items())
    with pytest.raises(
        ValueError, match="state_dict must have the embeddings of the new words of 'sw'; pass all weights"
    ):
        LanguagePack.from_model(model, "sw", state_dict=gathered)


def test_num_bytes_is_the_size_of_the_file(tiny, with_words, tmp_path):
    pack = LanguagePack.from_model(adapted(tiny, rank=32), "sw")
    pack.save_pretrained(tmp_path)
    # A tiny model has as many names of weights as a real one, and few numbers.
    header = 8 + int.from_bytes((tmp_path / FILES[1]).read_bytes()[:8], "little")
    assert pack.num_bytes() == (tmp_path / FILES[1]).stat().st_size - header
    assert pack.num_bytes() == sum(4 * weight.numel() for weight in pack.weights.values())
    assert with_words.num_bytes() == sum(4 * weight.numel() for weight in with_words.weights.values()) + 4 * 2 * 32


def test_attach_keeps_the_mode_and_makes_only_the_adapter_trainable(pack, tiny):
    fresh = OpticalModel.from_pretrained(tiny).train()
    pack.attach(fresh)
    assert all(module.training for module in fresh.modules())
    assert all(".lora_" in name for name, weight in fresh.named_parameters() if weight.requires_grad)


def test_attach_to_another_base_raises_with_both_names(pack, tiny, tmp_path):
    other = OpticalModel.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=f"pack for 'sw' must be {tiny} .*got {tmp_path / 'other'} "):
        pack.attach(other)
    assert languages(other) == []


def test_attach_twice_raises(pack, tiny):
    fresh = OpticalModel.from_pretrained(tiny)
    pack.attach(fresh)
    with pytest.raises(ValueError, match="'sw' already"):
        pack.attach(fresh)


def interrupt(*_):
    raise KeyboardInterrupt("stop")


SPOILED = {
    "does not fit its adapter: embeddings": lambda pack, words: replace(
        pack, weights=dict(list(pack.weights.items())[1:])
    ),
    "does not fit its adapter: layer.9": lambda pack, words: replace(
        pack, weights={**pack.weights, "layer.9": torch.ones(1)}
    ),
    "does not fit its adapter: encoder": lambda pack, words: replace(
        pack, lora_config=LoraConfig(r=4, target_modules=["word_embeddings", "key"])
    ),
    "not found in the base model": lambda pack, words: replace(
        pack, lora_config=LoraConfig(target_modules=["nowhere"])
    ),
    "leave the word embeddings out": lambda pack, words: replace(pack, vocabulary=words.vocabulary),
    "the new rows must have shape": lambda pack, words: replace(
        words, vocabulary=Vocabulary(["a"], torch.zeros(1, 31))
    ),
    "stop": lambda pack, words: words,
}


@pytest.mark.parametrize(
    ("reason", "others"),
    [
        *((reason, ["ha", None] if "shape" in reason else ["ha"]) for reason in SPOILED),
        ("stop", []),
        ("stop", ["ha", None]),
    ],
    ids=str,
)
def test_failed_attach_restores_the_model(pack, with_words, tiny, monkeypatch, reason, others):
    spoiled = SPOILED[reason](pack, with_words)
    if reason == "stop":
        monkeypatch.setattr(LanguagePack, "load_into", interrupt)
    model = adapted(tiny, "ha", rank=2) if others else OpticalModel.from_pretrained(tiny)
    if None in others:
        activate(model, None)
    before, found, bits = anatomy(model), vectors(model, tiny), weights(model)
    with pytest.raises((ValueError, KeyboardInterrupt), match=reason):
        spoiled.attach(model)
    assert anatomy(model) == before
    assert torch.equal(vectors(model, tiny), found)
    assert all(torch.equal(weight, bits[name]) for name, weight in weights(model).items())
    monkeypatch.undo()
    pack.attach(model)  # a valid pack can still be attached
    assert active_language(model) == "sw"


def test_missing_file_raises_with_its_name(with_words, pack, tmp_path):
    for name in FILES:
        pack.save_pretrained(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(OSError, match=f"looked for {name}, found"):
            LanguagePack.from_pretrained(tmp_path)
    with_words.save_pretrained(tmp_path)
    (tmp_path / VOCABULARY).unlink()
    with pytest.raises(OSError, match=f"{VOCABULARY} is missing, cut short or changed"):
        LanguagePack.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_config.json", lambda b: b""),
        ("adapter_model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        (VOCABULARY, lambda b: b[:-100]),
    ],
)
def test_truncated_or_changed_files_raise(with_words, tmp_path, name, damage):
    with_words.save_pretrained(tmp_path)
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OSError, match=f"{name} is missing, cut short or changed; fetch or save"):
        LanguagePack.from_pretrained(tmp_path)
    with_words.save_pretrained(tmp_path)
    LanguagePack.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("adapter_model.safetensors", b"no weights"), ("adapter_model.safetensors", OTHER), (VOCABULARY, OTHER)],
    ids=["damaged adapter", "other adapter", "other words"],
)
def test_invalid_files_with_the_right_hash_raise(with_words, tiny, tmp_path, name, content):
    with_words.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    sign(tmp_path)
    model = OpticalModel.from_pretrained(tiny)
    with pytest.raises(
        (OSError, ValueError), match=f"{name} (is cut short or damaged|has no weights)|does not fit its adapter"
    ):
        LanguagePack.from_pretrained(tmp_path).attach(model)
    assert languages(model) == []


def test_saving_removes_the_words_of_an_older_pack(with_words, pack, tmp_path):
    with_words.save_pretrained(tmp_path)
    assert (tmp_path / VOCABULARY).exists()
    pack.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert LanguagePack.from_pretrained(tmp_path).vocabulary is None


@pytest.mark.promise(
    "Several processes",
    "A pack or retriever that is opened while another one is saved over it is either the old one or the new one. "
    "Two that are saved to the same folder at the same time are saved one after the other. Other libraries, and "
    "models opened without packs, do not use these locks, and some network file systems have none. Open again there.",
)
@pytest.mark.parametrize("place", ["", "language_packs/sw"])
def test_pack_opens_while_another_is_saved_over_it(with_words, pack, tmp_path, monkeypatch, place):
    """A pack alone, and one in the folder of a retriever."""
    replace_file = os.replace

    def slowly(source, target):
        time.sleep(0.01)
        replace_file(source, target)

    def save() -> None:
        for each in (pack, with_words) * 2:
            with staged_directory(tmp_path) as staged:
                each.save_pretrained(staged / place)

    with_words.save_pretrained(tmp_path / place)
    monkeypatch.setattr(os, "replace", slowly)
    with ThreadPoolExecutor() as pool:
        saving = pool.submit(save)
        while not saving.done():
            LanguagePack.from_pretrained(tmp_path / place)
    saving.result()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2, "novelty": []}, "newer hf_optical; update hf_optical"),
        ({"format": None}, "missing or invalid: format"),
        ({"language": "../x"}, "'../x' is not a language code"),
        ({"base_model": None, "roles": "query"}, "missing or invalid: base_model, roles"),
        ({"sha256": "5"}, "missing or invalid: sha256"),
        ({"base_model": "\ud800"}, "missing or invalid: base_model"),
        ({"new_words": ["a" * 1001]}, "new_words, number 0 has 1001 characters"),
        *(({"roles": {name: value}}, f"missing or invalid: roles.{name}") for name, value in INVALID_ROLES),
        ({"roles": {"skip_tokens": ["a", 3]}}, "missing or invalid: roles.skip_tokens.1"),
        ({"details": {"results": {"sw": {}}}}, "missing or invalid: details.results.sw.dataset, "),
        ({"details": {"seconds": float("inf")}}, "missing or invalid: details.seconds"),
        ({"details": {"more": json.loads("[" * 60 + "]" * 60)}}, "missing or invalid: details.more.0.0"),
        ({"details": {"languages": ['sw"]); evil() #']}}, "is not a language code"),
        ({"details": {"\x1b[31m\n": "\ud800"}}, r"missing or invalid: details.\\x1b\[31m\\n"),
    ],
    ids=lambda value: str(value)[:80] if isinstance(value, dict) else "",
)
def test_invalid_entries_raise(saved, change, reason):
    file = saved / "language_pack.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(OSError, match=f"language_pack.json: .*{reason}"):
        LanguagePack.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"details": {"pairs": "many"}}, "details.pairs"),
        ({"roles": {"query_length": 10**9}}, "roles.query_length"),
    ],
    ids=str,
)
def test_invalid_pack_is_not_saved(pack, saved, change, named):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match=f"could not be opened again .*{named}"):
        replace(pack, **change).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    details = {"settings": {"marginal_penalty": float("inf"), "x": (1, 2)}, "scripts": ("Latin",), "results": None}
    replace(pack, details=details).save_pretrained(saved)
    assert LanguagePack.from_pretrained(saved).details["settings"]["marginal_penalty"] == float("inf")


def test_error_about_the_base_is_printable(pack, tmp_path):
    other = OpticalModel.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=5))
    with pytest.raises(ValueError, match="the base of the pack for .* got ") as caught:
        replace(pack, base_model="a\x1b[31m\n\nb", base_fingerprint="\x1b[2J").check_base(other)
    assert str(caught.value).isprintable() and r"a\x1b[31m\n\nb" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("language_pack.json", ""),
        ("language_pack.json", "[]"),
        ("adapter_config.json", "{"),
        ("adapter_config.json", "{}"),
    ],
)
def test_damaged_json_raises(saved, name, content):
    (saved / name).write_text(content)
    if name == "adapter_config.json":
        sign(saved)
    with pytest.raises(OSError, match=f"{name}.*(save the pack again|fetch it again)"):
        LanguagePack.from_pretrained(saved)


def test_missing_entries_raise(saved):
    file = saved / "language_pack.json"
    content = json.loads(file.read_text())
    assert list(content)[0] == "format" and len(content) == 12
    for key in content.keys() - {"word_rules", "strength"}:  # older packs lack these
        file.write_text(json.dumps({name: value for name, value in content.items() if name != key}))
        with pytest.raises(OSError, match="language_pack.json"):
            LanguagePack.from_pretrained(saved)


def test_wrong_hash_of_any_file_raises(with_words, tmp_path):
    with_words.save_pretrained(tmp_path)
    digests = json.loads((tmp_path / "language_pack.json").read_text())["sha256"]
    assert sorted(digests) == sorted({*FILES, VOCABULARY} - {"language_pack.json"})
    for name in digests:
        sign(tmp_path, sha256={**digests, name: "0" * 64})
        with pytest.raises(OSError, match=f"{name} is missing, cut short or changed"):
            LanguagePack.from_pretrained(tmp_path)
        sign(tmp_path, sha256={key: value for key, value in digests.items() if key != name})
        with pytest.raises(OSError, match=f"{name} is missing, cut short or changed"):
            LanguagePack.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"peft_type": "IA3", "target_modules": ["key"]}', "is not that of a language pack .unsupported: peft_type"),
        ('{"peft_type": "LORA", "layers_pattern": "x"}', "is damaged"),
    ],
)
def test_other_kinds_of_adapters_raise(saved, content, reason):
    (saved / "adapter_config.json").write_text(content)
    sign(saved)
    with pytest.raises(OSError, match=f"adapter_config.json {reason}"):
        LanguagePack.from_pretrained(saved)


def test_similar_language_codes_do_not_interfere(tiny, tmp_path):
    """PEFT selects weights by an adapter's name, which must not match similar names."""
    model = adapted(tiny, "zh", rank=2)
    packs = {"zh": LanguagePack.from_model(model, "zh")}
    for code in ("zh-Hant", "z", "lora"):
        packs[code] = LanguagePack.from_model(adapted(tiny, code, rank=3), code)
        packs[code].attach(model)
    for code, pack in packs.items():
        again = LanguagePack.from_model(model, code)
        assert again.weights.keys() == pack.weights.keys()
        assert all(torch.equal(again.weights[name], weight) for name, weight in pack.weights.items())


def test_without_local_paths_keeps_the_last_part_of_paths(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    details = {
        "teacher": "models/teacher",
        "gone": ["./models/a", "~/b", "/c/d"],
        "bitext": "org/bitext",
        "note": "a/b.",
    }
    pack = replace(make_pack(tiny, "sw", 0), details=details).without_local_paths()
    assert pack.details == {"teacher": "teacher", "gone": ["a", "b", "d"], "bitext": "org/bitext", "note": "a/b."}


@pytest.fixture
def pack_with_words(tmp_path):
    """A pack with new words on a base whose tokenizer puts a space before every text."""
    tiny_checkpoint(tmp_path / "base", "xlm-roberta")
    make_pack(tmp_path / "base", "sw", 0, words=["mzuqo", "ẹkọ"]).save_pretrained(tmp_path / "pack")
    return tmp_path / "pack"


def test_pack_without_rules_for_words_reads_text_as_it_did(pack_with_words):
    """Packs written before the rules were recorded were trained with those of version 1."""
    retriever = OpticalRetriever.from_pretrained(pack_with_words, device="cpu")
    texts = ["Leta mzuqo", "Mzuqo ni mzuqo.", "E\u0323ko\u0323 ni mzuqo"]
    ids = [retriever.processor_of("sw").queries([text])["input_ids"].tolist() for text in texts]
    file = pack_with_words / "language_pack.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored.pop("word_rules") == 3
    file.write_text(json.dumps(stored), encoding="utf-8")

    for _ in range(2):
        old = OpticalRetriever.from_pretrained(pack_with_words, device="cpu")
        processor = old.processor_of("sw")
        expected = extend_processor(old.processor, ["mzuqo", "ẹkọ"], rules=1)
        assert [processor.queries([text])["input_ids"].tolist() for text in texts] == [
            expected.queries([text])["input_ids"].tolist() for text in texts
        ]
        found = [processor.queries([text])["input_ids"].tolist() == new for text, new in zip(texts, ids, strict=True)]
        assert found == [True, False, False]
        # Saved with a retriever and merged, it keeps its rules.
        old.save_pretrained(pack_with_words.parent / "retriever")
        pack_with_words = pack_with_words.parent / "retriever" / "language_packs" / "sw"
    assert old.merge("sw").processor.word_rules == 1


def test_pack_of_rules_2_still_replaces_unknown_words(pack_with_words, tmp_path):
    """By rules 3, the nearest word follows an unknown one; by rules 2, it is in its place."""
    text, new = "Leta amzuqoni.", OpticalRetriever.from_pretrained(pack_with_words, device="cpu")
    assert new.processor_of("sw").nearest_words(text) == "Leta amzuqoni mzuqo."
    file = pack_with_words / "language_pack.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "word_rules": 2}), encoding="utf-8")

    old = OpticalRetriever.from_pretrained(pack_with_words, device="cpu")
    (expected,) = new.encode_queries(["Leta mzuqo."], language="sw")
    old.save_pretrained(tmp_path / "retriever")
    old.merge("sw").save_pretrained(tmp_path / "merged")
    for folder in (pack_with_words, tmp_path / "retriever", tmp_path / "merged"):
        opened = OpticalRetriever.from_pretrained(folder, device="cpu")
        (found,) = opened.encode_queries([text])
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5), folder


@pytest.mark.parametrize("rules", [4, "2"])
def test_unknown_rules_for_words_raise(pack_with_words, rules):
    file = pack_with_words / "language_pack.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "word_rules": rules}))
    with pytest.raises(OSError, match="invalid: word_rules; update hf_optical if the pack is newer"):
        LanguagePack.from_pretrained(pack_with_words)


def test_pack_on_a_relative_base_opens_from_another_folder(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path / "bases" / "minilm")
    monkeypatch.chdir(tmp_path)
    pack = make_pack("bases/../bases/minilm", "sw", 0)
    pack.save_pretrained("pack")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert pack.base_model == str(tmp_path / "bases" / "minilm")
    assert OpticalRetriever.from_pretrained("../pack", device="cpu").languages == ["sw"]
    stored = json.loads((tmp_path / "pack" / "adapter_config.json").read_text(encoding="utf-8"))
    assert stored["base_model_name_or_path"] == pack.base_model
    # What is published names no folder of this machine.
    assert pack.without_local_paths().base_model == "minilm"
    pack.write_card(tmp_path / "pack")
    assert str(tmp_path) not in (tmp_path / "pack" / "README.md").read_text(encoding="utf-8")


def test_known_words_are_kept_and_packs_without_them_read_as_before(tiny, tmp_path):
    pack = make_pack(tiny, "sw", 0, words=["mzuqo", "kitxbu"])
    old = OpticalRetriever.from_pretrained(tiny, device="cpu")
    old.add_language("sw", pack)
    assert old.processor_of("sw").nearest_words("Mzqou kitxbu") == "Mzqou kitxbu"

    words = Counter(word for pair in demo_pairs() for word in pair["sw"].lower().split() if word.isalpha())
    pack.known_words = {"language": {**words, "mzuqo": 91, "kitxbu": 5}, "translations": {"water": 3}}
    pack.save_pretrained(tmp_path)
    assert LanguagePack.from_pretrained(tmp_path).known_words == pack.known_words
    retriever = OpticalRetriever.from_pretrained(tmp_path, device="cpu")
    assert retriever.processor_of("sw").nearest_words("Mzqou kitxbu") == "mzuqo kitxbu"
    assert retriever.processor.nearest_words is None
    retriever.save_pretrained(tmp_path / "retriever")
    again = OpticalRetriever.from_pretrained(tmp_path / "retriever", device="cpu")
    assert again.processor_of("sw").known_words == retriever.merge("sw").processor.known_words == pack.known_words

    file = tmp_path / "known_words.json"
    file.write_text(file.read_text().replace("91", "92"))
    with pytest.raises(OSError, match=r"known_words\.json is missing, cut short or changed"):
        LanguagePack.from_pretrained(tmp_path)
    pack.known_words = None
    pack.save_pretrained(tmp_path)
    assert not file.exists() and LanguagePack.from_pretrained(tmp_path).known_words is None


@pytest.mark.parametrize("content", [{"rules": 2, "language": {}}, {"rules": 1, "language": 1}])
def test_invalid_known_words_raise(tiny, tmp_path, content):
    pack = make_pack(tiny, "sw", 0, words=["mzuqo"])
    pack.known_words = {"language": {"mzuqo": 9}}
    pack.save_pretrained(tmp_path)
    before, after = (tmp_path / "known_words.json").read_bytes(), json.dumps(content).encode()
    (tmp_path / "known_words.json").write_bytes(after)
    config = tmp_path / "language_pack.json"
    config.write_text(
        config.read_text().replace(hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest())
    )
    with pytest.raises(OSError, match=r"cannot open .*known_words\.json: "):
        LanguagePack.from_pretrained(tmp_path)
