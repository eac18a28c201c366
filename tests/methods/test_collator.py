from __future__ import annotations

import pytest
import torch

from hf_optical import OpticalProcessor
from hf_optical.methods import DistillationCollator, LanguageData, Method
from hf_optical.methods.anchor import AnchorReader
from hf_optical.methods.base import PairReader


ROWS = [
    {"translation": {"en": "The bus is late.", "sw": "Basi limechelewa sana leo, rafiki."}, "index": 7},
    {"translation": {"en": "Why, my friend, are you driving so fast?", "sw": "Kwa nini?"}, "index": 3},
]
NEW = [row["translation"]["sw"] for row in ROWS]
ENGLISH = [row["translation"]["en"] for row in ROWS]


@pytest.fixture
def student(tiny_processor):
    return tiny_processor


@pytest.fixture
def teacher(tiny_processor):
    return OpticalProcessor(tiny_processor.tokenizer, query_marker="[MASK]", query_length=12)


def collator(student, teacher, roles=("query",), special=True, anchor=False) -> DistillationCollator:
    data = LanguageData("sw", "en", None, student, student, teacher)
    readers = [PairReader(data, roles, special)] + [AnchorReader(data, roles, special)] * anchor
    return DistillationCollator({"sw": readers}, {"sw": student})


def assert_padded(batch, block, expected):
    """Check that block `block` of `batch` is `expected` with padding to its right."""
    size, width = expected["input_ids"].shape
    for name, tensor in expected.items():
        rows = batch[name][block * size : (block + 1) * size]
        assert torch.equal(rows[:, :width], tensor), name
        if name != "input_ids":
            assert not rows[:, width:].any(), name


@pytest.mark.parametrize(("roles", "anchor"), [(("document",), False), (("query", "document"), True)])
def test_each_block_holds_its_texts_in_every_role(student, teacher, roles, anchor):
    batch = collator(student, teacher, roles, anchor=anchor)(ROWS)
    assert set(batch) == {"student", "blocks", "teacher", "targets", "index", "language"} and batch["language"] == "sw"
    size = len(roles) * len(ROWS)
    expected = {"pairs": (0, size), "anchor": (size, 2 * size)} if anchor else {"pairs": (0, size)}
    assert batch["blocks"] == expected and batch["teacher"].keys() == {"pairs"} and batch["targets"] == {}
    blocks = [(texts, role) for texts in ([NEW, ENGLISH] if anchor else [NEW]) for role in roles]
    assert all(len(tensor) == len(blocks) * len(ROWS) for tensor in batch["student"].values())
    for position, (texts, role) in enumerate(blocks):
        assert_padded(batch["student"], position, student(texts, role))
    assert all(len(tensor) == size for tensor in batch["teacher"]["pairs"].values())
    for position, role in enumerate(roles):
        assert_padded(batch["teacher"]["pairs"], position, teacher(ENGLISH, role))
    assert batch["index"].tolist() == [7, 3]
    assert batch["index"].dtype == torch.int64


def test_teacher_vectors_are_looked_up_for_every_block_of_the_teacher(student, teacher):
    collate = collator(student, teacher)
    collate.teacher_vectors = lambda block: block["input_ids"].float()[..., None]
    block = collate(ROWS)["teacher"]["pairs"]
    assert torch.equal(block["embeddings"][..., 0], block["input_ids"].float())


def test_mask_leaves_out_special_tokens_but_not_unknown_words(student):
    tokenizer = student.tokenizer
    expanding = OpticalProcessor(tokenizer, query_marker=".", query_length=30, query_expansion=True)
    rows = [{"translation": {"en": "the bus", "sw": "ℵ basi"}, "index": 0}]
    batch = collator(expanding, expanding, special=False)(rows)["student"]
    aligned = batch["input_ids"][batch["token_mask"]].tolist()
    # The unknown word stays; [CLS], the marker, [SEP] and the expansion are left out.
    assert aligned == tokenizer("ℵ basi", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id in aligned
    with_all = collator(expanding, expanding)(rows)["student"]
    assert torch.equal(with_all["input_ids"], batch["input_ids"])
    assert torch.equal(with_all["attention_mask"], batch["attention_mask"])
    assert with_all["token_mask"].all()


def test_empty_sentence_keeps_its_special_tokens(student):
    rows = [{"translation": {"en": "the bus", "sw": ""}, "index": 0}, *ROWS]
    batch = collator(student, student, special=False)(rows)["student"]
    assert batch["token_mask"].sum(1).tolist()[0] == 2
    assert batch["token_mask"].any(1).all()


def test_batch_is_read_by_the_readers_of_its_language(student, teacher):
    data = {
        "sw": LanguageData("sw", "en", None, student, student, teacher),
        "en": LanguageData("en", "sw", None, teacher, teacher, teacher),
    }
    readers = {language: [PairReader(own, ("query",), True)] for language, own in data.items()}
    processors = {"sw": student, "en": teacher}
    collate = DistillationCollator(readers, processors)
    for language in data:
        rows = [{**row, "language": language} for row in ROWS]
        batch = collate(rows)
        expected = DistillationCollator({language: readers[language]}, processors)(ROWS)
        assert batch["language"] == expected["language"] == language
        assert all(torch.equal(batch["student"][name], tensor) for name, tensor in expected["student"].items())
    mixed = [{**ROWS[0], "language": "en"}, {**ROWS[1], "language": "sw"}]
    for rows, found in ((mixed, "en, sw"), ([{**ROWS[0], "language": "yo"}], "yo")):
        with pytest.raises(ValueError, match=f"in one of the languages sw, en, got rows in {found}"):
            collate(rows)


def test_reader_holds_no_sentence_pairs(student, teacher, pairs):
    """It is sent to every worker of a data loader."""
    settings = type("Settings", (), {"roles": ("query",), "align_special_tokens": True})
    assert Method(settings).reader(LanguageData("sw", "en", pairs, student, student, teacher)).data.pairs is None
