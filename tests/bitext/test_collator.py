import pytest
import torch

from hf_optical import OpticalProcessor
from hf_optical.bitext import DistillationCollator, MultilingualCollator


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


def assert_holds(batch, block, expected):
    """The rows of `batch` from `block` on are `expected`, and what is wider is padding."""
    size, width = expected["input_ids"].shape
    for name, tensor in expected.items():
        rows = batch[name][block * size : (block + 1) * size]
        assert torch.equal(rows[:, :width], tensor), name
        if name != "input_ids":
            assert not rows[:, width:].any(), name


@pytest.mark.parametrize("roles", [("query",), ("document",), ("query", "document")])
@pytest.mark.parametrize("anchor", [False, True])
def test_blocks_are_texts_by_roles(student, teacher, roles, anchor):
    batch = DistillationCollator(student, teacher, "sw", "en", roles=roles, anchor=student if anchor else None)(ROWS)
    assert set(batch) == {"student", "blocks", "teacher", "index", "language"} and batch["language"] == "sw"
    size = len(roles) * len(ROWS)
    expected = {"pairs": (0, size), "anchor": (size, 2 * size)} if anchor else {"pairs": (0, size)}
    assert batch["blocks"] == expected
    blocks = [(texts, role) for texts in ([NEW, ENGLISH] if anchor else [NEW]) for role in roles]
    assert all(len(tensor) == len(blocks) * len(ROWS) for tensor in batch["student"].values())
    for position, (texts, role) in enumerate(blocks):
        assert_holds(batch["student"], position, student(texts, role))
    assert all(len(tensor) == len(roles) * len(ROWS) for tensor in batch["teacher"].values())
    for position, role in enumerate(roles):
        assert_holds(batch["teacher"], position, teacher(ENGLISH, role))
    assert batch["index"].tolist() == [7, 3]
    assert batch["index"].dtype == torch.int64


def test_what_it_gives_is_what_the_model_takes(student, teacher, tiny_model):
    batch = DistillationCollator(student, teacher, "sw", "en")(ROWS)
    assert tiny_model(**batch["student"]).embeddings.shape == (*batch["student"]["input_ids"].shape, 32)


def test_special_tokens_are_left_out_and_nothing_else(student):
    tokenizer = student.tokenizer
    expanding = OpticalProcessor(tokenizer, query_marker=".", query_length=30, query_expansion=True)
    rows = [{"translation": {"en": "the bus", "sw": "ℵ basi"}, "index": 0}]
    collator = DistillationCollator(expanding, expanding, "sw", "en", align_special_tokens=False)
    batch = collator(rows)["student"]
    aligned = batch["input_ids"][batch["token_mask"]].tolist()
    # The unknown word stays; [CLS], the marker, [SEP] and the expansion go.
    assert aligned == tokenizer("ℵ basi", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id in aligned
    with_all = DistillationCollator(expanding, expanding, "sw", "en")(rows)["student"]
    assert torch.equal(with_all["input_ids"], batch["input_ids"])
    assert torch.equal(with_all["attention_mask"], batch["attention_mask"])
    assert with_all["token_mask"].all()


def test_a_sentence_of_special_tokens_alone_keeps_them(student):
    rows = [{"translation": {"en": "the bus", "sw": ""}, "index": 0}, *ROWS]
    batch = DistillationCollator(student, student, "sw", "en", align_special_tokens=False)(rows)["student"]
    assert batch["token_mask"].sum(1).tolist()[0] == 2
    assert batch["token_mask"].any(1).all()


def test_a_batch_is_made_by_the_collator_of_its_language(student, teacher):
    own = {
        "sw": DistillationCollator(student, teacher, "sw", "en"),
        "en": DistillationCollator(teacher, teacher, "en", "sw"),
    }
    for language, collator in own.items():
        rows = [{**row, "language": language} for row in ROWS]
        batch, expected = MultilingualCollator(own)(rows), collator(rows)
        assert batch["language"] == language
        assert all(torch.equal(batch["student"][name], tensor) for name, tensor in expected["student"].items())
    mixed = [{**ROWS[0], "language": "en"}, {**ROWS[1], "language": "sw"}]
    for rows, found in ((mixed, "en, sw"), ([{**ROWS[0], "language": "yo"}], "yo")):
        with pytest.raises(ValueError, match=f"of the languages {found}; it must be of one out of sw, en"):
            MultilingualCollator(own)(rows)
