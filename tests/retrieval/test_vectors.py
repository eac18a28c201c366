import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_optical.retrieval.vectors import TokenVectors, as_token_vectors


LENGTHS = [3, 0, 1, 4]


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 5, generator=generator) for length in LENGTHS]


def same(ours, theirs):
    ours = ours.to_list() if isinstance(ours, TokenVectors) else ours
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_from_list_keeps_every_text(texts):
    vectors = TokenVectors.from_list(texts)
    assert (len(vectors), vectors.dim) == (4, 5)
    assert vectors.lengths.tolist() == LENGTHS and vectors.offsets.tolist() == [0, 3, 3, 4, 8]
    assert vectors.lengths.dtype == vectors.offsets.dtype == torch.int64
    same(vectors, texts)
    same(list(vectors), texts)


def test_from_padded_drops_what_the_mask_drops_wherever_it_stands():
    padded = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    same(TokenVectors.from_padded(padded, mask), [padded[0, [0, 2]], padded[1, [3]]])
    same(TokenVectors.from_padded(padded), list(padded))


@pytest.mark.parametrize("index", [0, 1, 3, -1, -4])
def test_an_integer_gives_one_text(texts, index):
    torch.testing.assert_close(TokenVectors.from_list(texts)[index], texts[index])


@pytest.mark.parametrize("index", [4, -5])
def test_an_integer_out_of_range_is_an_index_error(texts, index):
    with pytest.raises(IndexError):
        TokenVectors.from_list(texts)[index]


bounds = st.none() | st.integers(-6, 6)


@given(start=bounds, stop=bounds, step=st.none() | st.sampled_from([1, 2, -1, -3]))
def test_a_slice_is_that_of_a_list(start, stop, step):
    texts = [torch.full((length, 2), float(i)) for i, length in enumerate(LENGTHS)]
    same(TokenVectors.from_list(texts)[start:stop:step], texts[start:stop:step])


def test_a_slice_is_a_view(texts):
    vectors = TokenVectors.from_list(texts)
    assert vectors[2:].values.data_ptr() == vectors.values[3:].data_ptr()


@given(lengths=st.lists(st.integers(0, 6), max_size=12), tokens=st.integers(1, 10))
def test_blocks_cover_all_texts_in_order_and_hold_no_more_than_asked(lengths, tokens):
    vectors = TokenVectors(torch.zeros(sum(lengths), 1), torch.tensor(lengths, dtype=torch.int64))
    blocks = list(vectors.blocks(tokens))
    assert [i for start, stop in blocks for i in range(start, stop)] == list(range(len(lengths)))
    assert all(sum(lengths[start:stop]) <= tokens or stop == start + 1 for start, stop in blocks)


def test_cat_and_to(texts):
    first, second = TokenVectors.from_list(texts[:1]), TokenVectors.from_list(texts[1:])
    same(TokenVectors.cat([first, second]), texts)
    half = first.to(torch.float16)
    assert half.values.dtype == torch.float16 and half.lengths.tolist() == first.lengths.tolist()
    assert repr(half) == "TokenVectors(texts=1, tokens=3, dim=5, dtype=torch.float16, device='cpu')"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenVectors(torch.zeros(3), torch.tensor([3])), r"values has shape \(3,\)"),
        (lambda: TokenVectors(torch.zeros(3, 2), torch.tensor([2])), "adding up to the 3 rows"),
        (lambda: TokenVectors(torch.zeros(3, 2), torch.tensor([4, -1])), "one count a text"),
        (lambda: TokenVectors(torch.zeros(3, 2), torch.tensor([[3]])), "one count a text"),
        (lambda: TokenVectors.from_list([]), "vectors is empty"),
        (lambda: TokenVectors.from_list([torch.zeros(2, 3), torch.zeros(2, 4)]), r"vectors\[1\] has shape \(2, 4\)"),
        (lambda: TokenVectors.from_list([torch.zeros(2, 3), torch.zeros(3)]), r"vectors\[1\] has shape \(3,\)"),
        (lambda: TokenVectors.from_padded(torch.zeros(2, 3)), "pass a padded batch"),
        (lambda: TokenVectors.from_padded(torch.zeros(2, 3, 4), torch.ones(2, 4)), r"it must be \(2, 3\)"),
        (lambda: as_token_vectors([torch.zeros(2, 3)], torch.ones(1, 2), "queries"), "queries: a mask goes with"),
        (lambda: as_token_vectors(torch.zeros(2, 3), None, "documents"), "documents: values has shape"),
    ],
)
def test_wrong_shapes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
