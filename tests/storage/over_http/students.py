"""Publish bases, packs, retrievers and training runs, and load them from the Hub."""

from __future__ import annotations

import getpass
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData, constants
from packs import TEXTS, WORDS, assert_equal, make_pack, with_pack
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
from hf_optical.hub import upload_folder
from hf_optical.training.pushing import push_folder


PACK = ["README.md", "adapter_config.json", "adapter_model.safetensors", "language_pack.json"]
TOKEN = "hf_writer"


@pytest.fixture
def base(hub, tiny) -> str:
    """The id of the tiny model on the Hub."""
    OpticalModel.from_pretrained(tiny).push_to_hub("org/base")
    OpticalProcessor.from_pretrained(tiny).push_to_hub("org/base")
    return "org/base"


def metadata(card: bytes) -> ModelCardData:
    return ModelCard(card.decode(), ignore_metadata_errors=False).data


def assert_nothing_private_uploaded(hub, *folders: Path) -> None:
    """No uploaded byte is part of a token, local path or pickle."""
    places = [tempfile.gettempdir() + "/", f"{Path.home()}/", f"/{getpass.getuser()}/", str(REPOSITORY)]
    secrets = [TOKEN, "hf_secret", *places, *map(str, folders)]
    for sent in hub.received:
        found = [secret for secret in secrets if secret.encode() in sent]
        assert not found, (found, sent[:300])
        assert not sent.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), sent[:100]
    names = {path for each in hub.repositories.values() for files in each.commits.values() for path in files}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint" in name]


def test_pack_is_loaded_on_commit_of_its_base(hub, base, tiny, tmp_path, monkeypatch):
    first = hub.repositories["model", base].heads["main"]
    pack = make_pack(base, "sw", 3, WORDS)
    assert (pack.base_model, pack.base_revision) == (base, first)
    pack.push_to_hub("org/pack")
    card = metadata(hub.files("org/pack")["README.md"])
    assert (card.base_model, card.language, card.library_name) == (base, ["sw"], "hf_optical")
    OpticalModel.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=1)).push_to_hub(base)
    second = hub.repositories["model", base].heads["main"]
    assert second != first

    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    opened = OpticalRetriever.from_pretrained("org/pack", device="cpu")
    assert (opened.language, opened.model.revision) == ("sw", first)
    assert_equal(opened.encode_queries(TEXTS), with_pack(tiny, pack, TEXTS, "query"))
    assert any(first in request for request in hub.requests) and not any(second in each for each in hub.requests)
    with pytest.raises(ValueError, match="must be org/base .*got org/base"):
        OpticalRetriever.from_pretrained("org/pack", base_model=base)
    described = json.loads(hub.files("org/pack")["adapter_config.json"])
    assert (described["base_model_name_or_path"], described["revision"]) == (base, first)


def test_pack_has_no_local_paths_and_removes_stale_files(hub, tiny, tmp_path):
    details = {"teacher": str(tiny), "files": [str(tmp_path / "a.jsonl")], "bitext": "org/bitext", "n": 3}
    pack = replace(make_pack(tiny, "sw", 1, WORDS), details=details)
    assert pack.push_to_hub("pack", private=True, commit_message="Swahili").repo_url.repo_id == "writer/pack"
    assert sorted(hub.files("writer/pack")) == sorted([*PACK, "vocabulary.safetensors"])
    assert hub.repositories["model", "writer/pack"].messages[-1] == "Swahili"
    stored = json.loads(hub.files("writer/pack")["language_pack.json"])
    assert stored["base_model"] == tiny.name
    assert stored["details"] == {"teacher": tiny.name, "files": ["a.jsonl"], "bitext": "org/bitext", "n": 3}
    assert 'from_pretrained("writer/pack"' in hub.files("writer/pack")["README.md"].decode()
    assert pack.base_model == pack.details["teacher"] == str(tiny)
    make_pack(tiny, "sw", 2).push_to_hub("pack")
    assert sorted(hub.files("writer/pack")) == PACK
    assert LanguagePack.from_pretrained("writer/pack").vocabulary is None
    assert_nothing_private_uploaded(hub, tiny, tmp_path)


def test_retriever_is_uploaded_with_its_current_packs(hub, base, tiny, tmp_path):
    retriever = OpticalRetriever.from_pretrained(base, device="cpu")
    for seed, (language, words) in enumerate({"ha": [], "yo": [], "sw": WORDS}.items()):
        retriever.add_language(language, make_pack(base, language, seed, words))
    retriever.set_language("sw")
    retriever.push_to_hub("org/retriever", commit_message="three languages")
    pulled = OpticalRetriever.from_pretrained("org/retriever", device="cpu")
    assert (pulled.languages, pulled.language) == (["ha", "yo", "sw"], "sw")
    for language in (*pulled.languages, "base"):
        languages = [language] * len(TEXTS)
        expected = retriever.encode_queries(TEXTS, language=languages)
        assert_equal(pulled.encode_queries(TEXTS, language=languages), expected)
    files = hub.files("org/retriever")
    retriever.save_pretrained(tmp_path / "saved")
    saved = {
        path.relative_to(tmp_path / "saved").as_posix(): path.read_bytes()
        for path in (tmp_path / "saved").rglob("*")
        if path.is_file()
    }
    assert saved == {name: content for name, content in files.items() if not name.endswith("README.md")}
    assert metadata(files["README.md"]).language == ["ha", "yo", "sw"]
    assert metadata(files["language_packs/yo/README.md"]).base_model == base

    retriever.remove_language("sw")
    retriever.remove_language("yo")
    retriever.push_to_hub("org/retriever")
    assert {name.split("/")[1] for name in hub.files("org/retriever") if name.startswith("language_packs/")} == {"ha"}
    retriever.merge("ha").push_to_hub("org/retriever")
    assert not [name for name in hub.files("org/retriever") if name.startswith("language")]
    merged = OpticalRetriever.from_pretrained("org/retriever", device="cpu")
    expected = retriever.encode_queries(TEXTS, language="ha")
    assert_equal(merged.encode_queries(TEXTS), expected, 1e-5)
    card = metadata(hub.files("org/retriever")["README.md"])
    assert (card.base_model, card.language, card.library_name) == (base, ["ha"], "sentence-transformers")
    assert_nothing_private_uploaded(hub, tiny, tmp_path)


def test_existing_card_is_kept(hub, tiny, tmp_path):
    retriever = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "model"), device="cpu")
    (tmp_path / "model" / "README.md").write_text("---\nlanguage: en\n---\nmine\n")
    (tmp_path / "model" / "training.png").write_bytes(b"plot")
    retriever.push_to_hub("org/model")
    assert hub.files("org/model")["training.png"] == b"plot"
    assert hub.files("org/model")["README.md"] == b"---\nlanguage: en\n---\nmine\n"


@pytest.fixture
def run(tiny, tmp_path):
    """Make a trainer that publishes, whose folder is full of files that must not be uploaded."""

    def make(languages: list[str], **options) -> OTDistillationTrainer:
        pairs = load_bitext(DEMO / "train.jsonl", "sw").select(range(20))
        texts = [row["translation"] for row in pairs]
        data = {
            code: Dataset.from_list(
                [
                    {**row, "translation": {"en": text["en"], code: text["sw"]}}
                    for row, text in zip(pairs, texts, strict=True)
                ]
            )
            for code in languages
        }
        args = OTDistillationConfig(
            **{"output_dir": str(tmp_path / "run"), "language": languages, "max_steps": 2, "use_cpu": True},
            **{"eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "disable_tqdm": True},
            **{"hub_model_id": "org/student", "hub_private_repo": True, "hub_token": TOKEN},
            **{"push_to_hub": True, **options},
        )
        trainer = OTDistillationTrainer(str(tiny), str(tiny), args, data)
        for folder in {args.folder_of(pack) for pack in args.packs or [""]}:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(args, folder / "training_args.bin")
            torch.save({}, folder / "optimizer.pt")
            (folder / "notes.txt").write_text(f"{folder} hf_secret")
            (folder / "other.json").write_text(json.dumps({"folder": str(folder)}))
        return trainer

    return make


# Trainer turns progress bars off and on again, which fails if the environment turns them off.
no_progress_bars = pytest.mark.filterwarnings("ignore:Cannot enable progress bars")


@no_progress_bars
def test_each_pack_of_a_run_has_its_own_repository(hub, run, tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    trainer = run(["sw", "lo"])
    names = ["org/student-sw", "org/student-lo"]
    assert [name for _, name in hub.repositories] == names and hub.files(names[0]) == {}, (
        "created before training starts"
    )
    assert all(repository.private for repository in hub.repositories.values())
    trainer.train()
    pushed = trainer.push_to_hub()
    assert [each.repo_url.repo_id for each in pushed] == names
    for name in names:
        assert (
            set(PACK)
            <= hub.files(name).keys()
            <= {*PACK, "known_words.json", "vocabulary.safetensors", "training.png"}
        )
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    assert_nothing_private_uploaded(hub, tiny, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    retriever = OpticalRetriever.from_pretrained(names[0], base_model=tiny, device="cpu")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, trainer.language_pack("sw"), TEXTS, "query"))


@no_progress_bars
def test_manual_push_uploads_nothing_private(hub, run, tiny, tmp_path):
    trainer = run(["sw"], push_to_hub=False)
    trainer.train()
    assert hub.repositories == {}
    trainer.push_to_hub()
    assert json.loads(hub.files("org/student")["language_pack.json"])["base_model"] == tiny.name
    assert_nothing_private_uploaded(hub, tiny, tmp_path)


@no_progress_bars
def test_fully_trained_model_is_uploaded_again_after_failure(hub, run, tiny, tmp_path):
    stale = {"nearest_words.json": b'{"words": ["maji"]}', "language_pack.json": b"{}", "notes.md": b"by hand"}
    (tmp_path / "before").mkdir()
    for name, content in stale.items():
        (tmp_path / "before" / name).write_bytes(content)
    upload_folder(tmp_path / "before", "org/student")
    trainer = run(["sw"], train_all_weights=True)
    trainer.train()
    hub.add_fault("POST /api/models/org/student/commit/", status=500)
    with pytest.raises(OSError, match="call it again to complete the upload"):
        trainer.push_to_hub()
    assert hub.files("org/student") == stale
    here = OpticalRetriever.from_pretrained(tmp_path / "run", device="cpu")
    hub.faults.clear()
    trainer.push_to_hub(blocking=False).result(60)
    assert_nothing_private_uploaded(hub, tiny, tmp_path)
    there = OpticalRetriever.from_pretrained("org/student", device="cpu")
    assert_equal(there.encode_queries(TEXTS), here.encode_queries(TEXTS))
    files = hub.files("org/student")
    assert not {*list(stale)[:2], "other.json", "notes.txt", "trainer_state.json"} & files.keys()
    assert "notes.md" in files and metadata(files["README.md"]).library_name == "sentence-transformers"


def test_folder_of_a_run_is_pushed_as_a_whole(hub, base, tmp_path):
    folder = tmp_path / "run"
    make_pack(base, "ha", seed=0).save_pretrained(folder)
    make_pack(base, "ha", seed=1).save_pretrained(folder / "checkpoint-1")
    (folder / "eval_results.json").write_text("{}")
    (folder / "training.png").write_bytes(b"a figure")
    address = push_folder(folder, "org/ha", license="cc-by-4.0")
    assert address.startswith(f"{hub.url}/org/ha/commit/")
    assert sorted(hub.files("org/ha")) == sorted([*PACK, "eval_results.json", "training.png"])
    card = hub.files("org/ha")["README.md"]
    assert metadata(card).license == "cc-by-4.0" and b'"org/ha"' in card
    assert_nothing_private_uploaded(hub, tmp_path)
    OpticalRetriever.from_pretrained(base, device="cpu").save_pretrained(tmp_path / "model")
    push_folder(tmp_path / "model", "org/model")
    assert "config.json" in hub.files("org/model")
    (folder / "language_pack.json").unlink()
    with pytest.raises(DataError, match="several packs.*: checkpoint-1"):
        push_folder(folder, "org/ha")
