from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..checks import check_choice, check_shape
from ..storage.mapping import map_file
from ..storage.staging import staged_directory


# Names of data types in a safetensors file.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "I64": torch.int64,
}


class TokenVectors:
    """
    Token vectors of many texts, packed end to end without padding.

    A text may have no tokens; [`maxsim`] then gives it the score -inf.

    Args:
        values (`torch.Tensor` of shape `(total_tokens, dim)`):
            The vectors of the first text, then those of the second, and so on.
        lengths (`torch.Tensor` of shape `(texts,)`):
            Number of tokens of each text. Kept on the CPU as int64, whatever the device of `values`.

    Raises:
        ValueError: If `values` is not a matrix, or `lengths` does not add up to its number of rows.
    """

    def __init__(self, values: Tensor, lengths: Tensor):
        check_shape("values", values, ("total_tokens", "dim"))
        self.values = values
        self.lengths = lengths.to("cpu", torch.int64)
        if self.lengths.ndim != 1 or (self.lengths < 0).any() or self.lengths.sum() != len(values):
            raise ValueError(f"lengths must be counts that add up to the {len(values)} rows of values, got {lengths}")

    @classmethod
    def from_list(cls, vectors: Iterable[Tensor | np.ndarray], *, name: str = "vectors") -> TokenVectors:
        """
        Pack one tensor per text.

        Tensors that follow each other in memory, as those of [`~TokenVectors.to_list`] do, are not copied.

        Args:
            vectors (iterable of `torch.Tensor` or `numpy.ndarray` of shape `(tokens, dim)`):
                At least one, all with the same `dim`.
            name (`str`, defaults to `"vectors"`): Name of the argument in error messages.

        Raises:
            ValueError: If `vectors` is empty, or an entry is not a matrix with the `dim` of the first one.
            TypeError: If an entry does not hold numbers.
        """
        tensors = [_as_tensor(entry, f"{name}[{position}]") for position, entry in enumerate(vectors)]
        if not tensors:
            raise ValueError(f"{name} is empty; pass at least one tensor of shape (tokens, dim)")
        dim: int | str = "dim"
        for position, tensor in enumerate(tensors):
            check_shape(f"{name}[{position}]", tensor, ("tokens", dim))
            dim = tensor.shape[1]
        return cls(_end_to_end(tensors), torch.tensor([len(tensor) for tensor in tensors]))

    @classmethod
    def from_padded(cls, values: Tensor, mask: Tensor | None = None, *, name: str = "values") -> TokenVectors:
        """
        Pack a padded batch.

        Args:
            values (`torch.Tensor` of shape `(texts, tokens, dim)`): The batch.
            mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*):
                Nonzero for the tokens to keep, in any pattern. Defaults to all tokens.
            name (`str`, defaults to `"values"`): Name of `values` in error messages.

        Raises:
            ValueError: If a shape does not fit.
        """
        check_shape(name, values, ("texts", "tokens", "dim"))
        mask = values.new_ones(values.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        check_shape(f"the mask of {name}", mask, values.shape[:2])
        return cls(values[mask], mask.sum(1))

    @classmethod
    def cat(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """Concatenate `parts`, of which there is at least one and which share one `dim`."""
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.values.shape[1]

    @cached_property
    def offsets(self) -> Tensor:
        """First row of each text in `values`, and the end of the last one: int64 of shape `(texts + 1,)`."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> TokenVectors: ...

    def __getitem__(self, index: int | slice) -> Tensor | TokenVectors:
        """Vectors `(tokens, dim)` of one text, or a slice of the texts. A view unless the slice has a step."""
        texts = range(len(self))[index]
        if isinstance(texts, int):
            return self.values[self.offsets[texts] : self.offsets[texts + 1]]
        if texts.step != 1:
            return self.take(list(texts))
        stop = max(texts.start, texts.stop)
        return TokenVectors(
            self.values[self.offsets[texts.start] : self.offsets[stop]], self.lengths[texts.start : stop]
        )

    def take(self, positions: list[int]) -> TokenVectors:
        """Copy the texts at `positions`, in that order."""
        rows = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in positions]
        return TokenVectors(torch.cat([self.values[:0], *rows]), self.lengths[positions])

    def save(self, path: str | os.PathLike) -> None:
        """
        Save to a safetensors file with two tensors, `values` and `lengths`.

        The file is replaced as a whole: an interrupted save never leaves a partial file.

        Args:
            path (`str` or `os.PathLike`): The file.

        Raises:
            ValueError: If the data type of the values is not supported; convert them first, for example with
                `.to(torch.float16)`.
        """
        check_choice("the dtype of values", self.values.dtype, _DTYPES.values())
        path = Path(path)
        with staged_directory(path.parent) as staged:
            save_file({"values": self.values.detach().contiguous(), "lengths": self.lengths}, staged / path.name)

    @classmethod
    def open(cls, path: str | os.PathLike) -> TokenVectors:
        """
        Open a file written by [`~TokenVectors.save`].

        The file may be larger than memory: `values` is mapped from disk, read on use, and must not be written to.

        Args:
            path (`str` or `os.PathLike`): The file.

        Raises:
            OSError: If the file does not exist or does not hold token vectors.
        """
        try:
            # safetensors maps files for writing, which the system refuses for a file larger than memory.
            content = torch.from_numpy(np.asarray(_Mapped(map_file(Path(path)))))
            start = 8 + int.from_bytes(content[:8].numpy(), "little")
            header = json.loads(content[8:start].numpy().tobytes())
            values, lengths = (_tensor(content[start:], header[name]) for name in ("values", "lengths"))
            return cls(values, lengths.clone())
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise OSError(f"{path} does not hold token vectors or is damaged; save it again") from error

    def __repr__(self) -> str:
        return (
            f"TokenVectors(texts={len(self)}, tokens={len(self.values)}, dim={self.dim}, dtype={self.values.dtype}, "
            f"device={str(self.values.device)!r})"
        )

    def to(self, *args, **kwargs) -> TokenVectors:
        """
        Move or convert `values`. Takes the arguments of `torch.Tensor.to`.

        Vectors in int8 are the directions of unit vectors, each scaled to at most 127. Converting to int8 drops the
        length of a vector, and converting from int8 gives unit vectors.
        """
        return TokenVectors(convert(self.values, *args, **kwargs), self.lengths)

    def to_list(self) -> list[Tensor]:
        """One tensor `(tokens, dim)` per text, as views of `values`."""
        return list(self.values.split(self.lengths.tolist()))

    def blocks(self, tokens: int) -> Iterator[tuple[int, int]]:
        """Split the texts into runs `(start, stop)` of at most `tokens` tokens. A longer text is its own run."""
        start = 0
        while start < len(self):
            fitting = int(torch.searchsorted(self.offsets, self.offsets[start] + tokens, right=True)) - 1
            stop = max(start + 1, fitting)
            yield start, stop
            start = stop


def as_token_vectors(
    vectors: TokenVectors | Sequence[Tensor] | Tensor, mask: Tensor | None = None, name: str = "vectors"
) -> TokenVectors:
    """Pack tensors `(tokens, dim)`, or a padded tensor `(texts, tokens, dim)` with a `mask` of the tokens to keep."""
    if isinstance(vectors, Tensor):
        return TokenVectors.from_padded(vectors, mask, name=name)
    if mask is not None:
        raise ValueError(f"only a padded tensor (texts, tokens, dim) takes a mask; leave out the mask of {name}")
    return vectors if isinstance(vectors, TokenVectors) else TokenVectors.from_list(vectors, name=name)


def convert(values: Tensor, *args, **kwargs) -> Tensor:
    """`values.to(...)` of token vectors, with int8 as directions of unit vectors, as in [`TokenVectors.to`]."""
    converted = torch.empty(0, dtype=values.dtype).to(*args, **kwargs).dtype
    if converted == values.dtype or torch.int8 not in (converted, values.dtype):
        return values.to(*args, **kwargs)
    if converted == torch.int8:
        largest = values.abs().amax(1, keepdim=True).float().clamp_min(1e-12) if values.numel() else values.float()
        return (values.float() * (127 / largest)).round().to(*args, **kwargs)
    return torch.nn.functional.normalize(values.float(), dim=1).to(*args, **kwargs)


def _as_tensor(entry: Tensor | np.ndarray, name: str) -> Tensor:
    if isinstance(entry, Tensor):
        return entry
    try:
        # torch warns about read-only memory, such as that of a mapped file.
        return torch.as_tensor(np.require(entry, requirements="W"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a tensor of shape (tokens, dim), got {entry!r:.50}") from error


def _end_to_end(vectors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors: a view where they follow each other in one storage, otherwise a copy."""
    first = vectors[0]
    places = accumulate((tensor.numel() for tensor in vectors), initial=first.storage_offset())
    memory = first.untyped_storage().data_ptr()
    if all(
        tensor.storage_offset() == place
        and tensor.untyped_storage().data_ptr() == memory
        and tensor.is_contiguous()
        and tensor.dtype == first.dtype
        and not tensor.requires_grad
        for tensor, place in zip(vectors, places, strict=False)
    ):
        rows = sum(len(tensor) for tensor in vectors)
        return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))
    return torch.cat(list(vectors))


class _Mapped:
    """The bytes of a mapped file, declared writable, or torch would warn in all threads about read-only memory."""

    def __init__(self, file: Any):
        self.bytes = np.frombuffer(file, np.uint8)
        self.__array_interface__ = {**self.bytes.__array_interface__, "data": (self.bytes.ctypes.data, False)}


def _tensor(content: Tensor, entry: dict[str, Any]) -> Tensor:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(content):
        raise ValueError("a tensor lies outside the file")
    return content[first:last].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
