"""Files from others are never executed, cannot lead outside their folder, and take bounded time and memory."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import WORDS, make_pack
from reliability.folders import sign_pack, write_layout
from reliability.fuzzing import limited_memory
from safetensors.torch import load_file, save_file
from tiny import DEMO, REPOSITORY, tiny_checkpoint

from hf_optical import (
    LanguagePack,
    OpticalModel,
    OpticalProcessor,
    OpticalRetriever,
    OTDistillationConfig,
    OTDistillationTrainer,
    load_bitext,
)
from hf_optical.errors import DataError
from hf_optical.storage.safety import inside
from hf_optical.storage.staging import recover
from hf_optical.studies import load_study


# The source code.

NEVER_IMPORTED = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "extractall", "unpack_archive", "system", "popen"}


def called(node: ast.Call) -> tuple[str, str]:
    """The name that is called and the expression that it is an attribute of."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr, ast.unparse(node.func.value)
    return (node.func.id, "") if isinstance(node.func, ast.Name) else ("", "")


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that could execute what they read, with the reason."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for module in {module.partition(".")[0] for module in modules} & NEVER_IMPORTED:
                yield node.lineno, f"import of {module}"
        if not isinstance(node, ast.Call):
            continue
        name, owner = called(node)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        # `re.compile` and `model.eval()` are harmless.
        if name in NEVER_CALLED and owner in ("", "builtins", "os", "shutil") or name in ("extractall",):
            yield node.lineno, f"{name}()"
        if owner == "torch" and name == "load" and given.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if owner in ("np", "numpy") and name == "load" and given.get("allow_pickle", "False") != "False":
            yield node.lineno, "np.load with pickles"
        if owner == "yaml" and name in ("load", "load_all", "unsafe_load", "full_load", "safe_load"):
            yield node.lineno, f"yaml.{name}"
        if given.get("shell", "False") != "False":
            yield node.lineno, "a shell"
        if given.get("trust_remote_code", "False") != "False":
            yield node.lineno, "remote code"
        if owner.startswith("Auto") and name == "from_pretrained":
            # By default, transformers asks the user at the keyboard.
            if given.get("trust_remote_code") != "False":
                yield node.lineno, f"{owner}.from_pretrained without trust_remote_code=False"
            if owner.startswith("AutoModel") and given.get("use_safetensors") != "True":
                yield node.lineno, f"{owner}.from_pretrained without use_safetensors=True"


@pytest.mark.promise(
    "Safety",
    "No line of the library or its examples unpickles data, evaluates strings, loads remote code or extracts "
    "an archive to disk.",
)
def test_source_never_executes_what_it_reads():
    files = [file for root in ("src", "examples") for file in sorted((REPOSITORY / root).rglob("*.py"))]
    assert files
    found = [
        f"{file.relative_to(REPOSITORY)}:{line}: {fault}"
        for file in files
        for line, fault in faults(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_unsafe_lines_are_found():
    for line in (
        *("import pickle", "from joblib import load", "eval(text)", "builtins.exec(text)", "__import__(name)"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)"),
        *("yaml.load(text, Loader=Loader)", "yaml.safe_load(text)", "archive.extractall(folder)"),
        *("shutil.unpack_archive(path)", "subprocess.run(text, shell=True)", "os.system(text)"),
        *("AutoConfig.from_pretrained(name)", "model = Thing(name, trust_remote_code=True)"),
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
    ):
        assert list(faults(ast.parse(line))), line


def test_transformers_loads_training_state_as_tensors_only():
    """Trainer's optimizer.pt, scheduler.pt and rng_state.pth are pickles, loaded with `weights_only=True`."""
    import transformers.trainer

    tree = ast.parse(Path(transformers.trainer.__file__).read_text(encoding="utf-8"))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == ("load", "torch")]
    assert loads and not [fault for fault in faults(tree) if "torch.load" in fault[1]]


# Code in files.


class Planted:
    """A pickle that creates a file when it is opened."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Iterator[Callable[[Path], None]]:
    """Return a function that plants code in a file; fail if it runs, with a user who agrees to every prompt."""
    proof = tmp_path / "it ran"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))

    def plant(path: Path) -> None:
        if path.suffix == ".py":
            path.write_text(f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n")
        else:
            torch.save(Planted(proof), path)

    plant(tmp_path / "code.bin")
    torch.load(tmp_path / "code.bin", weights_only=False)
    assert proof.exists()
    proof.unlink()
    yield plant
    assert not proof.exists()


@pytest.fixture
def pack(tiny, tmp_path) -> Path:
    make_pack(tiny, "sw", 1, WORDS).save_pretrained(tmp_path / "pack")
    return tmp_path / "pack"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.promise(
    "Safety",
    "Pickled weights are refused and never opened, even if the index or the configuration of a checkpoint names them.",
)
@pytest.mark.parametrize("layout", ["encoder", "multi_vector_encoder"])
def test_pickled_weights_are_refused(planted, tmp_path, layout):
    folder = write_layout(tmp_path / "folder", layout)
    for path in list(folder.rglob("model.safetensors")):
        path.unlink()
        planted(path.with_name("pytorch_model.bin"))
    with pytest.raises(OSError, match=f"{folder}.* no safetensors weights. Pickled weights can run code"):
        OpticalModel.from_pretrained(folder)
    # The index can name any file.
    save_file({"a": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    for name in ("pytorch_model.bin", f"../{folder.name}/pytorch_model.bin", str(folder / "pytorch_model.bin")):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
        with pytest.raises(
            OSError, match=f"{index} must name safetensors files in its folder, got .*pytorch_model.bin"
        ):
            OpticalModel.from_pretrained(folder)


def test_pickled_adapter_is_refused(planted, pack):
    (pack / "adapter_model.safetensors").unlink()
    planted(pack / "adapter_model.bin")
    with pytest.raises(OSError, match="is not a language pack: looked for adapter_model.safetensors, found"):
        OpticalRetriever.from_pretrained(pack)
    shutil.copy(pack / "adapter_model.bin", pack / "adapter_model.safetensors")
    sign_pack(pack)
    with pytest.raises(OSError, match="adapter_model.safetensors is cut short or damaged"):
        OpticalRetriever.from_pretrained(pack)


@pytest.mark.promise("Safety", "Code next to the weights of a checkpoint (`auto_map`) is never run.")
@pytest.mark.parametrize(
    ("layout", "model_type"), [("encoder", "bert"), ("pylate", "no-such-model"), ("stanford", "bert")]
)
def test_code_next_to_weights_is_not_run(planted, tmp_path, layout, model_type):
    folder = write_layout(tmp_path / "folder", layout)
    planted(folder / "modeling.py")
    auto = {name: f"modeling.{name}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}
    edit(folder / "config.json", lambda content: content.update(auto_map=auto, model_type=model_type))
    tokenizer = {"auto_map": {"AutoTokenizer": ["modeling.A", "modeling.B"]}, "tokenizer_class": "NoSuchTokenizer"}
    edit(folder / "tokenizer_config.json", lambda content: content.update(tokenizer))
    for one in (OpticalModel, OpticalProcessor, OpticalRetriever):
        try:
            one.from_pretrained(folder)
        except OSError as error:
            assert str(folder) in str(error)
        else:
            assert model_type == "bert"


@pytest.mark.promise(
    "Safety",
    "Training state (`optimizer.pt`, `scheduler.pt`, `rng_state.pth`, written by Trainer) is loaded as tensors only. "
    "A pickle with code in its place raises an error and does not run.",
)
def test_code_in_training_state_is_not_run(planted, tiny, tmp_path):
    """Resuming needs these files of Trainer, but they cannot be trusted either."""
    pairs = load_bitext(DEMO / "train.jsonl", "sw").select(range(10))
    args = OTDistillationConfig(
        **{"output_dir": str(tmp_path / "run"), "language": "sw", "max_steps": 2, "save_steps": 1, "use_cpu": True},
        **{"new_words": 0, "eval_strategy": "no", "disable_tqdm": True, "report_to": "none"},
    )
    OTDistillationTrainer(str(tiny), str(tiny), args, pairs).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        folder = shutil.copytree(tmp_path / "run" / "checkpoint-1", tmp_path / name / "checkpoint-1")
        assert (folder / name).is_file()
        planted(folder / name)
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            OTDistillationTrainer(str(tiny), str(tiny), args, pairs).train(resume_from_checkpoint=str(folder))


# Paths.


ELSEWHERE = ["../x", "a/../../x", "/etc", "..", "..\\x", "a\0b", "a\nb", "link", "link/x", "x" * 999]


@pytest.mark.promise(
    "Safety",
    "The files of a checkpoint cannot refer to anything outside its folder: no `..`, absolute paths or links that "
    "lead outside. A language code cannot be a path.",
)
def test_paths_outside_the_folder_are_refused(tmp_path):
    folder = tmp_path / "folder"
    (folder / "1_Dense").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    assert inside(folder, "1_Dense", folder / "modules.json") == folder / "1_Dense"
    assert inside(folder, "", folder / "modules.json") == folder
    for name in ELSEWHERE:
        with pytest.raises(OSError, match="modules.json names .*, which is not inside its folder"):
            inside(folder, name, folder / "modules.json")


def test_links_in_the_hub_cache_are_followed(tmp_path):
    cache = tmp_path / "models--org--model"
    folder, blobs = cache / "snapshots" / "0a1b2c", cache / "blobs"
    for path in (folder, blobs):
        path.mkdir(parents=True)
    (blobs / "5f").write_text("")
    (folder / "weights").symlink_to("../../blobs/5f")
    (folder / "elsewhere").symlink_to("../../../blobs")
    assert inside(folder, "weights", folder) == folder / "weights"
    with pytest.raises(OSError, match="not inside"):
        inside(folder, "elsewhere", folder)


PLANTED = {
    "complete folder": (".saving-x/complete", "home"),
    "file in complete": (".saving-x/complete/config.json", "home/mine"),
    "folder of discarded files": (".saving-x/discarded", "home"),
    "lock": (".saving-x/lock", "home/mine"),
    "target": ("sub", "home"),
}


@pytest.mark.promise(
    "Safety",
    "Opening a folder changes no file outside of it, even if the folder imitates an interrupted save.",
)
@pytest.mark.parametrize("link", PLANTED)
def test_opening_folder_changes_nothing_outside(tmp_path, link):
    """One of the paths that recovery after a kill reads or writes is a link to somewhere else."""
    folder, home = write_layout(tmp_path / "folder", "pylate"), tmp_path / "home"
    for place in ("mine", "complete/sub/mine", "discarded/mine", "discarded/sub/mine"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("mine")
    for part in ("complete", "discarded"):
        (folder / ".saving-x" / part / "sub").mkdir(parents=True)
        (folder / ".saving-x" / part / "sub" / "mine").write_text("theirs")
    where, to = PLANTED[link]
    if (folder / where).is_dir():
        shutil.rmtree(folder / where)
    (folder / where).parent.mkdir(exist_ok=True)
    (folder / where).symlink_to(tmp_path / to)
    before = {path: path.is_file() and path.read_bytes() for path in home.rglob("*")}
    OpticalModel.from_pretrained(folder)
    assert {path: path.is_file() and path.read_bytes() for path in home.rglob("*")} == before


def test_opening_a_folder_does_not_truncate_a_hard_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder" / ".saving-x").mkdir(parents=True)
    (tmp_path / "folder" / ".saving-x" / "lock").hardlink_to(tmp_path / "mine")
    recover(tmp_path / "folder")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "folder" / ".saving-x").exists()


@pytest.mark.parametrize(
    ("layout", "where"), [("pylate", "../outside"), ("pylate", "linked"), ("multi_vector_encoder", "absolute")]
)
def test_modules_outside_the_folder_are_refused(tmp_path, layout, where):
    folder = write_layout(tmp_path / "folder", layout)
    modules = json.loads((folder / "modules.json").read_text())
    (dense,) = (module for module in modules if module["type"].endswith("Dense"))
    shutil.move(folder / dense["path"], tmp_path / "outside")
    if where == "linked":
        (folder / "linked").symlink_to("../outside")
    dense["path"] = str(tmp_path / "outside") if where == "absolute" else where
    (folder / "modules.json").write_text(json.dumps(modules))
    for one in (OpticalModel, OpticalProcessor):
        with pytest.raises(OSError, match=f"{folder}/modules.json names .*not inside its folder"):
            one.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"transformers_weights": "x.safetensors.index.json"}),
        ("config.json", {"configuration_files": ["../config.4.0.0.json"]}),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
        ("config.json", {"text_config": {"attn_implementation": "org/kernel"}}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}),
        ("tokenizer_config.json", {"tokenizer_file": "OUTSIDE/tokenizer.json"}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_settings_that_lead_outside_the_folder_are_refused(planted, tmp_path, file, settings):
    """transformers follows these settings whatever we checked before."""
    folder, outside = tiny_checkpoint(tmp_path / "folder"), tiny_checkpoint(tmp_path / "outside", seed=1)
    planted(folder / "pytorch_model.bin")
    weights = dict.fromkeys(load_file(folder / "model.safetensors"), "pytorch_model.bin")
    (folder / "x.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    settings = json.loads(json.dumps(settings).replace("OUTSIDE", str(outside)))
    edit(folder / file, lambda content: content.update(settings))
    for one in (OpticalModel, OpticalProcessor, OpticalRetriever):
        with pytest.raises(OSError, match=f"{folder}/{file} sets "):
            one.from_pretrained(folder)


def test_former_location_of_a_tokenizer_is_ignored(tmp_path):
    folder = tiny_checkpoint(tmp_path / "folder")
    former = {"special_tokens_map_file": str(folder), "tokenizer_class": "TokenizersBackend", "vocab_file": None}
    edit(folder / "tokenizer_config.json", lambda content: content.update(former))
    edit(folder / "config.json", lambda content: content.update(_attn_implementation="eager"))
    assert len(OpticalRetriever.from_pretrained(folder).encode_queries(["a"])) == 1


@pytest.mark.promise(
    "Safety",
    "An adapter next to a model cannot replace its base. A language pack can only add weights: settings that change "
    "the base, import code, copy layers or match names with slow patterns are refused.",
)
def test_adapter_next_to_a_model_is_refused(tmp_path):
    """transformers would open the base that the adapter names, wherever it is."""
    folder, other = tiny_checkpoint(tmp_path / "folder"), tiny_checkpoint(tmp_path / "other", seed=1)
    make_pack(other, "sw", 1).save_pretrained(tmp_path / "pack")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "pack" / name, folder)
    with pytest.raises(OSError, match="contains both a model and the adapter_config.json"):
        OpticalModel.from_pretrained(folder)


@pytest.mark.parametrize("code", ["../../outside", "absolute"])
def test_language_codes_cannot_be_paths(tiny, tmp_path, code):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("sw", make_pack(tiny, "sw", 1))
    retriever.save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved" / "language_packs" / "sw", tmp_path / "outside")
    code = str(tmp_path / "outside") if code == "absolute" else code
    (tmp_path / "saved" / "languages.json").write_text(json.dumps({"languages": [code], "language": code}))
    with pytest.raises(OSError, match="languages.json is damaged.*must be a code"):
        OpticalRetriever.from_pretrained(tmp_path / "saved", device="cpu")
    with pytest.raises(ValueError, match="must be a code"):
        make_pack(tiny, code, 1)


# Adapters.


UNSAFE = [
    ({"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}, "megatron_config"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ({"layer_replication": [[0, 2]] * 100}, "layer_replication"),
    ({"modules_to_save": ["dense"]}, "modules_to_save"),
    ({"bias": "all"}, "bias"),
    ({"target_modules": r"(.*)*(.*)*query"}, "target_modules"),
    ({"rank_pattern": {r"(a+)+$": 4}}, "rank_pattern"),
    ({"target_modules": ".?" * 60 + "!"}, "target_modules"),
    ({"target_modules": "(.|..)" * 60 + "!"}, "target_modules"),
    ({"exclude_modules": ".*?" * 5 + "!"}, "exclude_modules"),
    ({"r": 10**9}, "rank 1000000000"),
    ({"rank_pattern": {"query": 10**6}}, "rank 1000000"),
    ({"r": 0}, "unsupported: r[)]"),
    ({"r": "4"}, "(damaged|unsupported)"),
    ({"lora_alpha": float("inf")}, "lora_alpha"),
    ({"lora_alpha": 10**400}, "lora_alpha"),
    ({"lora_dropout": 10**400}, "lora_dropout"),
    ({"alpha_pattern": {"query": float("nan")}}, "alpha_pattern"),
    ({"alpha_pattern": {"query": 10**400}}, "alpha_pattern"),
    ({"target_modules": [3]}, "target_modules"),
    ({"alpha_pattern": [1]}, "alpha_pattern"),
]


def test_adapter_with_unsafe_settings_is_refused(pack):
    whole = (pack / "adapter_config.json").read_text()
    for changes, named in UNSAFE:
        (pack / "adapter_config.json").write_text(whole)
        edit(pack / "adapter_config.json", lambda content, changes=changes: content.update(changes))
        sign_pack(pack)
        before = time.process_time()
        with limited_memory(2**30), pytest.raises(OSError, match=f"{pack}/adapter_config.json .*{named}"):
            LanguagePack.from_pretrained(pack)
        assert time.process_time() - before < 5, changes


# Cards.


def test_pack_cannot_put_code_or_markup_on_a_card(pack, tiny, tmp_path):
    """People may publish a pack again, under their name, without reading it."""
    code = "float32)\nimport os; os.system('true'"
    for told in ({"base_dtype": code}, {"languages": ['sw"]); evil() #']}, {"results": {"sw": {}}}):
        edit(pack / "language_pack.json", lambda content, told=told: content.update(details=told))
        with pytest.raises(OSError, match=f"cannot open {pack}/language_pack.json"):
            LanguagePack.from_pretrained(pack)
    note = f"Hi\n\n# Hi <script>evil()</script>\n```python\n{code}"
    details = {"note": note, "teacher": code, "settings": {code: code}}
    edit(pack / "language_pack.json", lambda content: content.update(details=details))
    retriever = OpticalRetriever.from_pretrained(pack, base_model=tiny, device="cpu")
    retriever._save_for_hub(tmp_path / "out", "me/mine")
    for folder in (tmp_path / "out", tmp_path / "out" / "language_packs" / "sw"):
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert "<script" not in page and not re.search(r"^(# Hi|import os)", page, re.M)
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M):
            assert "os.system" not in block and ast.parse(block)


@pytest.mark.promise(
    "Safety",
    "Lengths, prompts and markers of a pack have the same limits as those of a model, and its words have a maximum "
    "length.",
)
def test_pack_settings_have_the_limits_of_model_settings(pack):
    for roles in ({"query_length": 10**9, "query_expansion": True}, {"query_prompt": 5}, {"query_marker": ["a"]}):
        edit(pack / "language_pack.json", lambda content, roles=roles: content.update(roles=roles))
        with pytest.raises(OSError, match=f"cannot open {pack}/language_pack.json: missing or invalid: roles.query_"):
            OpticalRetriever.from_pretrained(pack)


def test_words_of_a_megabyte_are_refused(pack, tmp_path):
    before = time.process_time()
    edit(pack / "language_pack.json", lambda content: content.update(new_words=["a" * 10**6, "b"]))
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "nearest_words.json").write_text(json.dumps({"words": ["a" * 10**6]}))
    for one, place in ((LanguagePack, pack / "language_pack.json"), (OpticalProcessor, folder / "nearest_words.json")):
        with pytest.raises(OSError, match=f"{place}.*number 0 has 1000000 characters, more than 1000"):
            one.from_pretrained(place.parent)
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    ("file", "dtype", "value"),
    [
        ("adapter_model.safetensors", torch.float32, float("nan")),
        ("vocabulary.safetensors", torch.float8_e5m2, float("inf")),
    ],
)
def test_weights_that_are_not_finite_are_refused(pack, file, dtype, value):
    """On a CPU, attention accepts them and the vectors look normal."""
    weights = {name: weight.to(dtype) for name, weight in load_file(pack / file).items()}
    next(iter(weights.values())).view(-1)[:1] = torch.tensor([value], dtype=dtype)
    save_file(weights, pack / file)
    sign_pack(pack)
    with pytest.raises(OSError, match=f"{pack}/{file} must contain finite numbers only"):
        LanguagePack.from_pretrained(pack)


# Size.


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.promise(
    "Safety",
    "Endless or deeply nested JSON raises an error that names the file. A study's YAML is parsed as plain data within "
    "seconds; aliases that multiply endlessly, merge keys and endless numbers are refused.",
)
def test_endless_json_is_refused(tmp_path):
    folder = write_layout(tmp_path / "folder", "pylate")
    for name, content in (
        ("config_sentence_transformers.json", nested(100_000)),
        ("modules.json", "[" * 10**6),
        ("config.json", '{"a": ' + "9" * 10**6 + "}"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(content)
        with limited_memory(2**30), pytest.raises(OSError, match=f"{folder}/{name} is not valid JSON"):
            OpticalModel.from_pretrained(folder)
        (folder / name).write_bytes(whole)


def test_too_large_json_is_refused(pack, tmp_path):
    for path in (pack / "language_pack.json", tmp_path / "endless"):
        with open(path, "wb") as file:
            file.truncate(2**40)  # sparse: takes no space on the disk
    with limited_memory(2**30), pytest.raises(OSError, match="language_pack.json has more than 67108864 bytes"):
        LanguagePack.from_pretrained(pack)


@pytest.mark.promise(
    "Safety",
    "False sizes (a hidden size or rank of 10^9, wrong safetensors headers, 10^9 layers) raise an error within "
    "seconds and in bounded memory.",
)
@pytest.mark.parametrize("layout", ["encoder", pytest.param("stanford", marks=pytest.mark.slow)])
def test_config_larger_than_the_weights_is_refused(tmp_path, layout):
    folder = write_layout(tmp_path / "folder", layout)
    whole = (folder / "config.json").read_text()
    for changes in (
        *({"hidden_size": 10**9}, {"vocab_size": 10**12}, {"num_hidden_layers": 10**9}, {"hidden_size": 2**14}),
        *({"num_attention_heads": 10**9}, {"num_hidden_layers": -1, "hidden_size": -32}),
        # Layers under another name.
        {"model_type": "bart", "decoder_layers": 10**9},
    ):
        (folder / "config.json").write_text(whole)
        edit(folder / "config.json", lambda content, changes=changes: content.update(changes))
        before = time.process_time()
        with limited_memory(4 * 2**30), pytest.raises(OSError, match=f"{folder}.*"):
            OpticalModel.from_pretrained(folder)
        assert time.process_time() - before < 20, changes


def header(content: bytes, size: int | None = None) -> bytes:
    return (len(content) if size is None else size).to_bytes(8, "little") + content


def tensor(**changes) -> bytes:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return header(json.dumps({"embeddings.word_embeddings.weight": entry}).encode()) + bytes(4)


def test_wrong_safetensors_headers_are_refused(tmp_path, pack):
    folder = write_layout(tmp_path / "folder", "encoder")
    for content in (
        *(header(b"", 2**63), header(b"{}", 10**9), header(b"", 2**64 - 1), header(b"[" * 10**6), b"", bytes(8)),
        *(tensor(shape=[2**62, 4]), tensor(shape=[10**9]), tensor(data_offsets=[0, 2**63])),
        *(tensor(data_offsets=[4, 0]), tensor(shape=[-1]), tensor(dtype="F1000"), tensor(shape=[0] * 10**5)),
    ):
        (folder / "model.safetensors").write_bytes(content)
        (pack / "adapter_model.safetensors").write_bytes(content)
        sign_pack(pack)
        with limited_memory(2 * 2**30):
            with pytest.raises(OSError, match=f"{folder}"):
                OpticalModel.from_pretrained(folder)
            with pytest.raises(OSError, match=f"{pack}/adapter_"):
                LanguagePack.from_pretrained(pack)


# YAML.

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)

MERGED = "a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30))


HOSTILE = [
    ("!!python/object/apply:pathlib.Path.touch [ran]", "could not determine a constructor"),
    ("teacher: !!python/object/new:os.system ['touch ran']", "could not determine a constructor"),
    (LAUGHS, "values with aliases expanded"),
    ("name:\n  " + LAUGHS.replace("\n", "\n  "), "values with aliases expanded"),
    (MERGED, "values with aliases expanded"),
    (MERGED.replace("<<", "!!merge a"), "could not determine a constructor"),
    ("<<: {teacher: a}", "merge keys .<<. are not supported"),
    ("name: 1" + ":1" * 100_000, "a number of over 100 characters"),
    ("seeds: [0x" + "f" * 100_000 + "]", "a number of over 100 characters"),
    ("a: &a " + "x" * 10**5 + "\nb: [" + "*a, " * 1000 + "]", "characters and values with aliases"),
    ("name: !!bool x", "not YAML"),
    ("name: !!int ''", "not YAML"),
    ("notes: &a [*a, *a]", "values with aliases expanded"),
    ("[" * 10**5, "nested"),
    ("x" * 2**23, "more than 262144 bytes"),
    ("name: 2024-99-99", "not YAML"),
]


def test_study_is_parsed_as_plain_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content, named in HOSTILE:
        (tmp_path / "study.yaml").write_text(content)
        before = time.process_time()
        with limited_memory(2**30), pytest.raises(DataError, match=f"(?s)study.yaml.*{named}") as caught:
            load_study(tmp_path / "study.yaml")
        assert time.process_time() - before < 20 and not (tmp_path / "ran").exists()
        assert len(str(caught.value)) < 10_000
