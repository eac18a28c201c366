import json
import os
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hf_optical.retrieval.search import search
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


def test_from_padded_drops_masked_tokens_at_any_position():
    padded = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    same(TokenVectors.from_padded(padded, mask), [padded[0, [0, 2]], padded[1, [3]]])
    same(TokenVectors.from_padded(padded), list(padded))


def test_integer_index_gives_one_text(texts):
    vectors = TokenVectors.from_list(texts)
    for index in (0, 1, 3, -1, -4):
        torch.testing.assert_close(vectors[index], texts[index])
    for index in (4, -5):
        with pytest.raises(IndexError):
            vectors[index]


def test_consecutive_views_are_not_copied(texts):
    vectors = TokenVectors.from_list(texts)
    again = TokenVectors.from_list(vectors.to_list())
    part = TokenVectors.from_list(vectors.to_list()[2:])
    assert again.values.data_ptr() == vectors.values.data_ptr() and part.values.data_ptr() == vectors[2].data_ptr()
    same(again, texts)
    same(part, texts[2:])


@settings(max_examples=20)
@given(order=st.permutations(range(5)), offset=st.integers(0, 2))
def test_other_views_of_one_tensor_are_packed_in_order(order, offset):
    rows = torch.arange(40.0).view(20, 2)
    texts = [rows[4 * i + offset : 4 * i + 4] for i in order]
    same(TokenVectors.from_list(texts), texts)


def test_packing_keeps_gradients_and_strides():
    rows = torch.arange(12.0).view(6, 2).requires_grad_()
    TokenVectors.from_list(list(rows.split(2))).values.sum().backward()
    assert torch.equal(rows.grad, torch.ones(6, 2))
    columns = list(torch.arange(8.0).view(2, 4).T.split(2))
    same(TokenVectors.from_list(columns), columns)


bounds = st.none() | st.integers(-6, 6)


@settings(max_examples=40)
@given(start=bounds, stop=bounds, step=st.none() | st.sampled_from([1, 2, -1, -3]))
def test_slices_agree_with_list_slices(start, stop, step):
    texts = [torch.full((length, 2), float(i)) for i, length in enumerate(LENGTHS)]
    vectors = TokenVectors.from_list(texts)
    same(vectors[start:stop:step], texts[start:stop:step])
    # Slices are views.
    assert vectors[2:].values.data_ptr() == vectors.values[3:].data_ptr()


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(0, 6), max_size=12), tokens=st.integers(1, 10))
def test_blocks_cover_all_texts_within_token_limit(lengths, tokens):
    vectors = TokenVectors(torch.zeros(sum(lengths), 1), torch.tensor(lengths, dtype=torch.int64))
    blocks = list(vectors.blocks(tokens))
    assert [i for start, stop in blocks for i in range(start, stop)] == list(range(len(lengths)))
    assert all(sum(lengths[start:stop]) <= tokens or stop == start + 1 for start, stop in blocks)


def test_cat_and_to(texts):
    first, second = TokenVectors.from_list(texts[:1]), TokenVectors.from_list(texts[1:])
    same(TokenVectors.cat([first, second]), texts)
    half = first.to(torch.float16)
    assert half.values.dtype == torch.float16 and half.lengths.tolist() == first.lengths.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int8])
def test_save_and_open_round_trip(texts, dtype, tmp_path):
    vectors = TokenVectors.from_list(texts).to(dtype)
    for part in (vectors, vectors[1:], vectors[1:2]):
        part.save(tmp_path / "new" / "vectors.safetensors")
        opened = TokenVectors.open(tmp_path / "new" / "vectors.safetensors")
        assert opened.values.dtype == dtype
        assert torch.equal(opened.values.float(), part.values.float()) and torch.equal(opened.lengths, part.lengths)
    assert load_file(tmp_path / "new" / "vectors.safetensors").keys() == {"values", "lengths"}


def test_unsupported_dtypes_are_not_saved(tmp_path):
    vectors = TokenVectors(torch.ones(2, 3, dtype=torch.bool), torch.tensor([2]))
    with pytest.raises(ValueError, match="the dtype of values must be one of .*, got torch.bool"):
        vectors.save(tmp_path / "vectors.safetensors")
    assert not any(tmp_path.iterdir())


def test_numpy_arrays_are_accepted(texts):
    arrays = [text.numpy() for text in texts]
    for array in arrays[:2]:
        array.flags.writeable = False  # as those of a mapped file
    same(TokenVectors.from_list(arrays), texts)
    same(as_token_vectors(np.stack([texts[0].numpy()] * 2)), [texts[0]] * 2)
    column = pd.Series(texts, index=range(len(texts), 0, -1))
    same(TokenVectors.from_list(column), texts)
    assert search(texts[:1], arrays) == search(texts[:1], texts)
    for entry in ("a text", None, np.array(["a"])):
        with pytest.raises(TypeError, match=r"vectors\[1\] must be a tensor of shape \(tokens, dim\), got"):
            TokenVectors.from_list([texts[0], entry])


def test_file_larger_than_memory_opens(tmp_path):
    rows = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    entries = {"lengths": ("I64", [2], [0, 16]), "values": ("F16", [rows, 4], [16, 16 + 8 * rows])}
    header = json.dumps(
        {name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in entries.items()}
    ).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "large").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + struct.pack("<qq", rows - 3, 3))
        file.truncate(8 + len(header) + 16 + 8 * rows)
    vectors = TokenVectors.open(tmp_path / "large")
    assert len(vectors.values) == rows and vectors[1].tolist() == [[0.0] * 4] * 3


def test_other_and_truncated_files_are_refused(texts, tmp_path):
    TokenVectors.from_list(texts).save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    others = (b"", b"abc", b"\xff" * 99, b"\2" + b"\0" * 7 + b"{}", b"\2" + b"\0" * 7 + b"[]")
    for content in (*others, whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(OSError, match="other does not hold token vectors or is damaged"):
            TokenVectors.open(tmp_path / "other")


def test_headers_that_do_not_match_the_content_are_refused(tmp_path):
    for found, other in (
        ("[0,16]", "[0,99]"),
        ("[0,16]", "[-1,6]"),
        ("[0,16]", "[16,0]"),
        ('"shape":[2]', '"shape":[3]'),
        ('"shape":[2]', '"shape":{} '),
        ('"shape":[2]', '"shape":"2"'),
        ('"I64"', '"I99"'),
        ('"I64"', "{   }"),
    ):
        TokenVectors(torch.zeros(0, 4), torch.zeros(2)).save(tmp_path / "changed")
        content = (tmp_path / "changed").read_bytes()
        assert content.count(found.encode()) == 1 and len(found) >= len(other)
        (tmp_path / "changed").write_bytes(content.replace(found.encode(), other.ljust(len(found)).encode()))
        with pytest.raises(OSError, match="changed does not hold token vectors or is damaged"):
            TokenVectors.open(tmp_path / "changed")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TokenVectors.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenVectors(torch.zeros(3), torch.tensor([3])), r"values must have shape .*, got \(3,\)"),
        (lambda: TokenVectors(torch.zeros(3, 2), torch.tensor([2])), "add up to the 3 rows"),
        (lambda: TokenVectors(torch.zeros(3, 2), torch.tensor([4, -1])), "lengths must be counts"),
        (lambda: TokenVectors.from_list([]), "vectors is empty"),
        (
            lambda: TokenVectors.from_list([torch.zeros(2, 3), torch.zeros(2, 4)]),
            r"vectors\[1\] must .* \(tokens, 3\)",
        ),
        (lambda: TokenVectors.from_padded(torch.zeros(2, 3, 4), torch.ones(2, 4)), r"mask of values must .* \(2, 3\)"),
    ],
)
def test_invalid_shapes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
