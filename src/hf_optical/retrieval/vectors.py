from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..storage.staging import staged_directory


# Names of types in a safetensors file.
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
            Tokens of each text. Kept on the CPU as int64, wherever `values` are.

    Raises:
        ValueError: `values` is not a matrix, or `lengths` do not add up to its rows.
    """

    def __init__(self, values: Tensor, lengths: Tensor):
        if values.ndim != 2:
            raise ValueError(f"values has shape {tuple(values.shape)}; pass a matrix (total_tokens, dim)")
        self.values = values
        self.lengths = lengths.to("cpu", torch.int64)
        if self.lengths.ndim != 1 or (self.lengths < 0).any() or self.lengths.sum() != len(values):
            raise ValueError(f"lengths must be one count a text, adding up to the {len(values)} rows of values")

    @classmethod
    def from_list(cls, vectors: Iterable[Tensor | np.ndarray]) -> TokenVectors:
        """
        Packs one tensor a text. Tensors that lie end to end in memory, as those of `to_list` do, are not copied.

        Args:
            vectors (iterable of `torch.Tensor` or `numpy.ndarray` of shape `(tokens, dim)`):
                At least one, all of one `dim`.

        Raises:
            ValueError: `vectors` is empty, or an entry is not a matrix of the first one's `dim`. Names its position.
            TypeError: an entry holds no numbers.
        """
        vectors = [_as_tensor(entry, position) for position, entry in enumerate(vectors)]
        if not vectors:
            raise ValueError("vectors is empty; pass at least one tensor (tokens, dim)")
        for position, tensor in enumerate(vectors):
            if tensor.ndim != 2 or tensor.shape[1] != vectors[0].shape[-1]:
                raise ValueError(
                    f"vectors[{position}] has shape {tuple(tensor.shape)} and vectors[0] {tuple(vectors[0].shape)}; "
                    "every entry must be (tokens, dim) with one dim"
                )
        return cls(_end_to_end(vectors), torch.tensor([len(tensor) for tensor in vectors]))

    @classmethod
    def from_padded(cls, values: Tensor, mask: Tensor | None = None) -> TokenVectors:
        """
        Packs a padded batch.

        Args:
            values (`torch.Tensor` of shape `(texts, tokens, dim)`):
                The batch.
            mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*):
                Nonzero where a token takes part, in any pattern. Defaults to all of them.

        Raises:
            ValueError: the shapes are others.
        """
        if values.ndim != 3:
            raise ValueError(f"values has shape {tuple(values.shape)}; pass a padded batch (texts, tokens, dim)")
        if mask is None:
            mask = values.new_ones(values.shape[:2], dtype=torch.bool)
        elif mask.shape != values.shape[:2]:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; it must be {tuple(values.shape[:2])} like values")
        mask = mask.bool()
        return cls(values[mask], mask.sum(1))

    @classmethod
    def cat(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """The texts of `parts` (at least one, of one `dim`), one after the other."""
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return self.values.shape[1]

    @cached_property
    def offsets(self) -> Tensor:
        """Where each text begins in `values`, and, last, where the last one ends: int64 `(texts + 1,)`."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int | slice) -> Tensor | TokenVectors:
        """The vectors `(tokens, dim)` of one text, or a slice of the texts; a view unless the slice has a step."""
        texts = range(len(self))[index]
        if isinstance(texts, int):
            return self.values[self.offsets[texts] : self.offsets[texts + 1]]
        if texts.step != 1:
            return TokenVectors(torch.cat([self.values[:0], *(self[i] for i in texts)]), self.lengths[list(texts)])
        stop = max(texts.start, texts.stop)
        return TokenVectors(
            self.values[self.offsets[texts.start] : self.offsets[stop]], self.lengths[texts.start : stop]
        )

    def save(self, path: str | os.PathLike) -> None:
        """
        Writes a safetensors file of two tensors, `values` and `lengths`, so that a half-written one is never left.

        Args:
            path (`str` or `os.PathLike`): the file.

        Raises:
            ValueError: the values are of a type that is not read again.
        """
        if self.values.dtype not in _DTYPES.values():
            raise ValueError(f"values are {self.values.dtype}; convert them first, as by `.to(torch.float16)`")
        path = Path(path)
        with staged_directory(path.parent) as staged:
            save_file({"values": self.values.detach().contiguous(), "lengths": self.lengths}, staged / path.name)

    @classmethod
    def open(cls, path: str | os.PathLike) -> TokenVectors:
        """
        Opens a file that [`~TokenVectors.save`] wrote. It may be larger than memory: `values` are mapped from the
        disk, read as they are used, and must not be written to.

        Args:
            path (`str` or `os.PathLike`): the file.

        Raises:
            OSError: there is no such file, or it holds no token vectors.
        """
        try:
            with Path(path).open("rb") as file:
                # safetensors itself maps a file for writing, which the system refuses for one larger than memory.
                content = torch.from_numpy(np.asarray(_Mapped(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))
            start = 8 + int.from_bytes(content[:8].numpy(), "little")
            header = json.loads(content[8:start].numpy().tobytes())
            values, lengths = (_tensor(content[start:], header[name]) for name in ("values", "lengths"))
            return cls(values, lengths.clone())
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise OSError(f"{path} holds no token vectors, or is damaged; save it again") from error

    def __repr__(self) -> str:
        return (
            f"TokenVectors(texts={len(self)}, tokens={len(self.values)}, dim={self.dim}, dtype={self.values.dtype}, "
            f"device={str(self.values.device)!r})"
        )

    def to(self, *args, **kwargs) -> TokenVectors:
        """Moves or converts `values`; arguments as in `torch.Tensor.to`."""
        return TokenVectors(self.values.to(*args, **kwargs), self.lengths)

    def to_list(self) -> list[Tensor]:
        """One tensor `(tokens, dim)` a text, views of `values`."""
        return list(self.values.split(self.lengths.tolist()))

    def blocks(self, tokens: int) -> Iterator[tuple[int, int]]:
        """Cuts the texts into runs `(start, stop)` of at most `tokens` tokens; a longer text is its own run."""
        start = 0
        while start < len(self):
            fitting = int(torch.searchsorted(self.offsets, self.offsets[start] + tokens, right=True)) - 1
            stop = max(start + 1, fitting)
            yield start, stop
            start = stop


def as_token_vectors(
    vectors: TokenVectors | Sequence[Tensor] | Tensor, mask: Tensor | None = None, name: str = "vectors"
) -> TokenVectors:
    """
    Packs token vectors of any form.

    Args:
        vectors ([`TokenVectors`], sequence of `torch.Tensor` of shape `(tokens, dim)`, or `torch.Tensor` of shape
            `(texts, tokens, dim)`): the vectors.
        mask (`torch.Tensor` of shape `(texts, tokens)`, *optional*):
            Nonzero where a token takes part. Only for a padded tensor.
        name (`str`):
            What error messages call the argument.

    Raises:
        ValueError: a shape does not fit, or there is a mask beside vectors that are not padded.
    """
    try:
        if isinstance(vectors, Tensor):
            return TokenVectors.from_padded(vectors, mask)
        if mask is not None:
            raise ValueError("a mask goes with a padded tensor (texts, tokens, dim) only; leave it out")
        return vectors if isinstance(vectors, TokenVectors) else TokenVectors.from_list(vectors)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _as_tensor(entry: Tensor | np.ndarray, position: int) -> Tensor:
    if isinstance(entry, Tensor):
        return entry
    try:
        # Of memory that may not be written to, as that of a mapped file, torch would warn.
        return torch.as_tensor(np.require(entry, requirements="W"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"vectors[{position}] is {entry!r:.50}; it must be a tensor (tokens, dim)") from error


def _end_to_end(vectors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors: a view where they follow each other in one storage, and otherwise a copy."""
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
    """
    The bytes of a file, told to be writable: of others torch warns, and to ask Python not to show a warning is to ask
    it for all threads.
    """

    def __init__(self, file: mmap.mmap):
        self.bytes = np.frombuffer(file, np.uint8)
        self.__array_interface__ = {**self.bytes.__array_interface__, "data": (self.bytes.ctypes.data, False)}


def _tensor(content: Tensor, entry: dict[str, Any]) -> Tensor:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(content):
        raise ValueError("a tensor outside the file")
    return content[first:last].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
