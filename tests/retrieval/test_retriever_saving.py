import copy
import hashlib
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from packs import TEXTS, WORDS, assert_equal, make_pack, no_warnings, with_pack
from peft import PeftConfig
from tiny import tiny_checkpoint
from transformers import AutoModel

from hf_optical import LanguagePack, OpticalModel, OpticalRetriever
from hf_optical.languages import extend_processor
from hf_optical.retrieval import encode_texts
from hf_optical.storage import fetching


@pytest.fixture
def saved(retriever, tiny, tmp_path):
    """A retriever with three packs, the second one active, and the folder it is saved in."""
    retriever.add_language("sw", make_pack(tiny, "sw", 9, WORDS))
    retriever.set_language("yo")
    retriever.save_pretrained(tmp_path / "saved")
    return retriever, tmp_path / "saved"


def test_save_and_open_round_trip_keeps_every_language(saved, packs, tiny, tmp_path):
    retriever, folder = saved
    language = "base"
    retriever.set_language(language)
    retriever.save_pretrained(folder)
    moved = folder.rename(tmp_path / "moved")
    again = OpticalRetriever.from_pretrained(moved, device="cpu")
    assert (again.languages, again.language) == (["ha", "yo", "sw"], language)
    assert_equal(again.encode_queries(TEXTS), retriever.encode_queries(TEXTS))
    for code in ("ha", "yo", "sw", "base"):
        for encode in ("encode_queries", "encode_documents"):
            found, expected = (
                getattr(each, encode)(TEXTS, language=[code] * len(TEXTS)) for each in (again, retriever)
            )
            assert_equal(found, expected)
    # Saving again writes the same bytes.
    again.save_pretrained(tmp_path / "again")
    first, second = (
        {str(path.relative_to(root)): path for path in root.rglob("*")} for root in (moved, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert not [
        name for name in first if first[name].is_file() and first[name].read_bytes() != second[name].read_bytes()
    ]


def test_other_libraries_open_the_base_of_a_saved_retriever(saved, tiny):
    _, folder = saved
    assert OpticalModel.from_pretrained(folder).fingerprint() == OpticalModel.from_pretrained(tiny).fingerprint()
    with no_warnings():
        _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())


def test_pack_inside_a_saved_retriever_finds_its_base(saved, packs, tiny, tmp_path, monkeypatch):
    _, folder = saved
    moved = folder.rename(tmp_path / "moved")
    alone = OpticalRetriever.from_pretrained(moved / "language_packs" / "yo", device="cpu")
    assert (alone.languages, alone.language) == (["yo"], "yo")
    assert_equal(alone.encode_queries(TEXTS), with_pack(tiny, packs["yo"], TEXTS, "query"))
    monkeypatch.chdir(moved / "language_packs" / "yo")
    assert OpticalRetriever.from_pretrained(".", device="cpu").languages == ["yo"]
    # A pack copied elsewhere no longer finds a base that is a local folder.
    shutil.copytree(moved / "language_packs" / "yo", tmp_path / "yo")
    with pytest.raises(OSError, match="Pass its place as base_model"):
        OpticalRetriever.from_pretrained(tmp_path / "yo")
    OpticalRetriever.from_pretrained(tmp_path / "yo", base_model=moved)


def test_packs_of_an_earlier_save_are_deleted(saved, packs):
    retriever, folder = saved
    (folder / "language_packs" / "notes.txt").write_text("mine")
    (folder / "language_packs" / "mine").mkdir()
    retriever.remove_language("sw")
    retriever.remove_language("ha")
    retriever.save_pretrained(folder)
    assert sorted(path.name for path in (folder / "language_packs").iterdir()) == ["mine", "notes.txt", "yo"]
    assert OpticalRetriever.from_pretrained(folder, device="cpu").languages == ["yo"]
    retriever.remove_language("yo")
    retriever.save_pretrained(folder)
    assert not list(folder.glob("language_packs/*/language_pack.json"))
    assert OpticalRetriever.from_pretrained(folder, device="cpu").languages == []


def test_no_local_paths_are_saved(saved, tiny, tmp_path):
    _, folder = saved
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 12
    for path in files:
        assert not any(str(root).encode() in path.read_bytes() for root in (tiny, tmp_path.parent)), path


def test_pack_metadata_survives_saving(tiny, tmp_path):
    pack = replace(
        make_pack(tiny, "ha", 0), base_model="org/base", base_revision="abc", details={"teacher": "org/teacher"}
    )
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("ha", pack)
    for _ in range(2):
        retriever.save_pretrained(tmp_path)
        again = LanguagePack.from_pretrained(tmp_path / "language_packs" / "ha")
        for name in ("language", "base_model", "base_revision", "base_fingerprint", "roles", "details"):
            assert getattr(again, name) == getattr(pack, name), name
        retriever = OpticalRetriever.from_pretrained(tmp_path, device="cpu")


def test_pack_folder_is_not_overwritten(retriever, packs, tmp_path):
    packs["ha"].save_pretrained(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        FileExistsError, match="holds a language pack, which would hide the base; choose another folder"
    ):
        retriever.save_pretrained(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_invalid_list_of_languages_is_refused(saved):
    _, folder = saved
    for content in ("", "[]", "{}", '{"languages": [3]}', '{"languages": [], "language": "ha"}'):
        (folder / "languages.json").write_text(content)
        with pytest.raises(OSError, match="languages.json"):
            OpticalRetriever.from_pretrained(folder)


def test_damaged_or_exchanged_packs_are_refused(saved, tiny, tmp_path):
    retriever, folder = saved
    packs = folder / "language_packs"
    (packs / "ha").rename(packs / "kept")
    with pytest.raises(OSError, match="language_packs/ha"):
        OpticalRetriever.from_pretrained(folder)
    shutil.copytree(packs / "yo", packs / "ha")
    with pytest.raises(ValueError, match="the pack is for language 'yo', not 'ha'"):
        OpticalRetriever.from_pretrained(folder)
    shutil.rmtree(packs / "ha")
    (packs / "kept").rename(packs / "ha")
    file = packs / "sw" / "vocabulary.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(OSError, match="sw/vocabulary.safetensors is missing, cut short or changed"):
        OpticalRetriever.from_pretrained(folder)
    file.write_bytes(content)
    OpticalModel.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=1)).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"'ha' must be {tiny.name} .*, got {folder} .*open that base"):
        OpticalRetriever.from_pretrained(folder)
    retriever.save_pretrained(folder)
    assert OpticalRetriever.from_pretrained(folder, device="cpu").languages == ["ha", "yo", "sw"]


def test_packs_on_a_base_in_half_precision(tiny, tmp_path):
    half = {"dtype": torch.bfloat16, "device": "cpu"}
    retriever = OpticalRetriever.from_pretrained(tiny, **half)
    for seed, (language, words) in enumerate({"ha": [], "sw": WORDS}.items()):
        pack = make_pack(tiny, language, seed, words, dtype=torch.bfloat16)
        pack.save_pretrained(tmp_path / language)
        retriever.add_language(language, pack)
        retriever.set_language(language)
    vectors = retriever.encode_queries(TEXTS, language="ha")
    retriever.save_pretrained(tmp_path / "saved")
    again = OpticalRetriever.from_pretrained(tmp_path / "saved", **half)
    assert (again.languages, again.language, again.model.dtype) == (["ha", "sw"], "sw", torch.bfloat16)
    assert_equal(again.encode_queries(TEXTS), retriever.encode_queries(TEXTS))
    assert_equal(again.encode_queries(TEXTS, language="ha"), vectors)
    alone = OpticalRetriever.from_pretrained(tmp_path / "ha", base_model=tiny, **half)
    assert_equal(alone.encode_queries(TEXTS), vectors)
    assert not torch.equal(vectors[0], OpticalRetriever.from_pretrained(tiny, device="cpu").encode_queries(TEXTS)[0])
    for folder, base in ((tmp_path / "saved", None), (tmp_path / "ha", tiny)):
        with pytest.raises(ValueError, match="in the same dtype, such as dtype=torch.bfloat16"):
            OpticalRetriever.from_pretrained(folder, base_model=base)


@pytest.mark.promise(
    "Load and resources",
    "A retriever whose base changed after its packs were opened is not saved, because the packs would not open again.",
)
def test_base_changed_after_packs_were_opened_is_not_saved(retriever, packs, tmp_path):
    retriever.model.bfloat16()
    with pytest.raises(ValueError, match=r"a cast to torch.bfloat16, after the packs for ha, yo were .*merge\("):
        retriever.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    retriever.merge("ha").save_pretrained(tmp_path / "merged")
    for language in packs:
        retriever.remove_language(language)
    retriever.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "merged", tmp_path / "saved"):
        assert OpticalRetriever.from_pretrained(folder, device="cpu", dtype="auto").model.dtype == torch.bfloat16


def test_base_from_hub_is_recorded_by_commit(tiny, saved, tmp_path, monkeypatch):
    """Files are taken from the cache of the Hub client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commits = {"org/base": "a" * 40, "org/retriever": "b" * 40}
    for (name, commit), source in zip(commits.items(), (tiny, saved[1]), strict=True):
        cache = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        shutil.copytree(source, cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(commit)

    make_pack("org/base", "ha", 0).save_pretrained(tmp_path / "pack")
    pack = LanguagePack.from_pretrained(tmp_path / "pack")
    assert (pack.base_model, pack.base_revision) == ("org/base", "a" * 40)
    described = PeftConfig.from_pretrained(tmp_path / "pack")
    assert (described.base_model_name_or_path, described.revision) == ("org/base", "a" * 40)
    opened = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    assert (opened.model.name_or_path, opened.model.revision) == ("org/base", "a" * 40)
    assert opened.merge("ha").model.revision is None
    # A base opened from a folder has no commit, even in the cache of the Hub client.
    snapshot = tmp_path / "cache" / "models--org--base" / "snapshots" / ("a" * 40)
    assert make_pack(snapshot, "ha", 0).base_revision is None
    assert make_pack(tiny, "ha", 0).base_revision is None

    retriever = OpticalRetriever.from_pretrained("org/retriever", device="cpu")
    assert (retriever.languages, retriever.language) == (["ha", "yo", "sw"], "yo")
    assert_equal(retriever.encode_queries(TEXTS), saved[0].encode_queries(TEXTS))


def test_installed_package_serves_for_a_commit_of_the_base(tiny, packs, tmp_path, monkeypatch):
    package = tmp_path / "site" / "optical_test_base"
    shutil.copytree(tiny, package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    digest = hashlib.sha256((package / "model" / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(fetching._PACKAGED, "some/base", ("optical_test_base", "model", digest))
    pack = replace(packs["yo"], base_model="some/base", base_revision="c" * 40)
    pack.save_pretrained(tmp_path / "pack")
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, pack, TEXTS, "query"))
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="at revision 'cccc.*Pass its place as base_model"):
        OpticalRetriever.from_pretrained(tmp_path / "pack")


UNSEEN = ["zunakunywak maji", "Where is wanakunywak, and why?"]
READ = ["zunakunywak unakunywak maji", "Where is wanakunywak unakunywak, and why?"]


def as_written(retriever, processor, texts, role):
    """Vectors of texts in which no word is read as another one."""
    processor = copy.copy(processor)
    processor.nearest_words = None
    return encode_texts(retriever.model, processor, texts, role).to_list()


@pytest.fixture
def with_words(retriever, tiny):
    """A retriever with a pack that reads its new words after unseen inflections."""
    retriever.add_language("sw", make_pack(tiny, "sw", 9, ["unakunywak", "kitxbu"]))
    retriever.set_language("sw")
    processor = retriever.processor_of("sw")
    assert_equal(retriever.encode_queries(UNSEEN), as_written(retriever, processor, READ, "query"))
    assert_equal(retriever.encode_documents(UNSEEN, language="sw"), as_written(retriever, processor, READ, "document"))
    with pytest.raises(AssertionError):
        assert_equal(retriever.encode_documents(UNSEEN), retriever.encode_documents(READ))
    return retriever


def test_unseen_words_are_encoded_the_same_after_saving(with_words, tiny, tmp_path):
    expected = with_words.encode_queries(UNSEEN)
    with_words.save_pretrained(tmp_path / "retriever")
    assert not (tmp_path / "retriever" / "nearest_words.json").exists(), "the base is unchanged"
    for folder in (tmp_path / "retriever", tmp_path / "retriever" / "language_packs" / "sw"):
        again = OpticalRetriever.from_pretrained(folder, device="cpu")
        assert again.language == "sw"
        assert_equal(again.encode_queries(UNSEEN), expected)
        again.set_language("base")
        assert_equal(again.encode_queries(UNSEEN), with_pack(tiny, None, UNSEEN, "query"))


def test_unseen_words_are_encoded_the_same_after_merging(with_words, tmp_path):
    expected, merged = with_words.encode_queries(UNSEEN), with_words.merge("sw")
    queries = merged.encode_queries(UNSEEN)
    assert_equal(queries, expected, tolerance=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    for _ in range(2):
        again = OpticalRetriever.from_pretrained(tmp_path / "merged", device="cpu")
        assert_equal(again.encode_queries(UNSEEN), queries)
        assert_equal(again.encode_documents(UNSEEN), merged.encode_documents(UNSEEN))
        again.save_pretrained(tmp_path / "merged")
    # Words of the old files do not affect the base that replaces them.
    with_words.save_pretrained(tmp_path / "merged")
    again = OpticalRetriever.from_pretrained(tmp_path / "merged", device="cpu")
    assert_equal(again.encode_documents(UNSEEN), with_words.encode_documents(UNSEEN))


@pytest.mark.parametrize("words", [[], ["mzuqo", "umzuqo"]], ids=["embeddings", "words"])
def test_pack_on_merged_base_uses_nearest_words_of_the_base(with_words, tmp_path, words):
    """As during training, the processor is that of the base, extended by the new words if there are any."""
    with_words.merge("sw").save_pretrained(tmp_path / "base")
    base = OpticalRetriever.from_pretrained(tmp_path / "base", device="cpu")
    pack = make_pack(tmp_path / "base", "yo", 3, words)
    trained = extend_processor(base.processor, words)
    base.add_language("yo", pack)
    base.set_language("yo")
    texts = [*UNSEEN, *TEXTS]
    expected = encode_texts(base.model, trained, texts, "query").to_list()
    base.save_pretrained(tmp_path / "both")
    for opened in (base, OpticalRetriever.from_pretrained(tmp_path / "both", device="cpu")):
        assert_equal(opened.encode_queries(texts), expected)
        assert_equal(opened.encode_queries(UNSEEN), as_written(opened, trained, READ, "query"))
