"""A cache on disk of the frozen teacher's token vectors, for every epoch, language and run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_choice, check_number
from ..languages import active_language
from ..methods import Method
from ..model import OpticalModel, OpticalProcessor
from ..storage.staging import recover, staged_directory
from .config import OTDistillationConfig
from .distributed import from_main_process


logger = logging.getLogger(__name__)

_DTYPES = {torch.float16: np.float16, torch.float32: np.float32}
# A killed run loses at most one shard.
_SHARD_BYTES = 2**28
_TEXTS_AT_A_TIME = 1024
# Entries of a configuration that do not affect the vectors.
_NEUTRAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class TeacherVectors:
    """
    Memory-mapped token vectors of a frozen teacher, from [`~TeacherVectors.prepare`].

    The key of a text is what the teacher reads: its token ids and attention mask. So a text that is read in the same
    way as a query and as a document is stored once, and the tokens that are matched or aligned may differ between
    runs.

    On disk, each teacher (weights, configuration, mixed precision) has a folder for each dtype. Its Arrow files never
    change and are named by their SHA-256, so damage is detected, and runs that write at the same time at worst store a
    text twice. Pickling, for the workers of a data loader, sends only the paths.
    """

    def __init__(self, shards: list[Path], dim: int, dtype: torch.dtype):
        self.shards, self.dim, self.dtype = shards, dim, dtype
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []
        keys = [np.empty(0, "S16")]
        for shard in shards:
            for chunk in pa.ipc.open_stream(pa.memory_map(str(shard))):
                key, vectors = chunk.columns
                keys.append(np.frombuffer(key.buffers()[1], "S16", len(key)))
                values = vectors.values.values.to_numpy(zero_copy_only=True)
                self._chunks.append((vectors.offsets.to_numpy(), values.reshape(-1, dim)))
        self._starts = np.cumsum([len(chunk) for chunk in keys])[:-1]
        stored = np.concatenate(keys)
        order = np.argsort(stored, kind="stable")
        # The last place is that of every text that is not stored.
        self._keys, self._places = stored[order], np.append(order, -1)

    def __reduce__(self):
        return type(self), (self.shards, self.dim, self.dtype)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(texts={len(self)}, dim={self.dim}, megabytes={self.nbytes / 1e6:.1f})"

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(shard.stat().st_size for shard in self.shards)

    @classmethod
    def prepare(
        cls,
        teacher: OpticalModel,
        processor: OpticalProcessor,
        texts: Sequence[str],
        roles: tuple[str, ...] = ("query",),
        folder: str | os.PathLike | None = None,
        *,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float16,
        autocast: torch.dtype | None = None,
        show_progress: bool = True,
    ) -> TeacherVectors:
        """
        Let the teacher encode the texts that are not in the cache yet, and open it.

        With several processes, the main one encodes and writes while the others wait; all must have access to
        `folder`, by default `hf_optical` in the cache folder of `datasets`. `autocast` is the dtype of mixed
        precision, if the teacher uses it. Rounding to `torch.float16` has an error of at most 2.5e-4.

        Raises:
            OSError: the disk is full, or `folder` cannot be written to. Vectors that were stored before are kept.
            ValueError: another `dtype`, a `batch_size` below 1, or a teacher with an active language pack.
        """
        check_choice("dtype", dtype, _DTYPES)
        check_number("batch_size", batch_size, at_least=1)
        check_choice("the active language pack of the teacher", active_language(teacher), [None], "deactivate it")

        def read(batch: dict[str, Tensor]) -> Tensor:
            inputs = {name: tensor.to(teacher.device) for name, tensor in batch.items()}
            with torch.no_grad(), torch.autocast(teacher.device.type, autocast, enabled=autocast is not None):
                return teacher(**inputs).embeddings.to("cpu", dtype)

        def write() -> list[Path]:
            root = Path(datasets.config.HF_DATASETS_CACHE) / "hf_optical" if folder is None else Path(folder)
            root = root / _fingerprint(teacher, autocast) / str(dtype).removeprefix("torch.")
            recover(root)
            shards = _intact_shards(root)
            for role in roles:
                cache = cls(shards, teacher.embedding_dim, dtype)
                missing, tokens = cache._missing(processor, texts, role)
                more = tokens * cache.dim * dtype.itemsize / 1e6
                logger.info("%s in %s; %d %s texts to encode, %.1f MB more.", cache, root, len(missing), role, more)
                starts = range(0, len(missing), batch_size)
                hidden = not (show_progress and missing)
                progress = tqdm(starts, f"Teacher's {role} vectors", unit="batch", disable=hidden)
                batches = ([texts[i] for i in missing[start : start + batch_size]] for start in progress)
                shards += _write_shards(root, (_chunk(processor(batch, role), read) for batch in batches))
            return shards

        training = teacher.training
        teacher.eval()
        try:
            return cls(from_main_process(write), teacher.embedding_dim, dtype)
        finally:
            teacher.train(training)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Look up the vectors `(batch, tokens, dim)` for the output of the teacher's processor; 0 at padding."""
        lengths, keys = _lengths_and_keys(batch)
        places = self._find(keys)
        unknown = np.flatnonzero((places < 0) & (lengths > 0))
        if len(unknown):
            raise KeyError(
                f"{len(unknown)} rows of the batch have no teacher vectors, the first is row {unknown[0]}; prepare "
                "all texts, also those for evaluation, with the same processor and roles"
            )
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        padded = np.zeros((*batch["input_ids"].shape, self.dim), _DTYPES[self.dtype])
        for row in np.flatnonzero(lengths):
            offsets, values = self._chunks[chunks[row]]
            begin = offsets[places[row] - self._starts[chunks[row]]]
            padded[row, : lengths[row]] = values[begin : begin + lengths[row]]
        return torch.from_numpy(padded)

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """Return the position of each text, counted over all shards; -1 if it is not stored."""
        found = np.searchsorted(self._keys, keys)
        known = found < len(self)
        known[known] = self._keys[found[known]] == keys[known]
        return self._places[np.where(known, found, len(self))]

    def _missing(self, processor: OpticalProcessor, texts: Sequence[str], role: str) -> tuple[list[int], int]:
        """Return the indices of the texts that are not stored, longest first, and their number of tokens."""
        parts = [(np.empty(0, np.int64), np.empty(0, "S16"))]
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            parts.append(_lengths_and_keys(processor(texts[start : start + _TEXTS_AT_A_TIME], role)))
        lengths, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
        missing = np.flatnonzero((self._find(keys) < 0) & (lengths > 0))
        missing = missing[np.unique(keys[missing], return_index=True)[1]]
        return missing[np.argsort(-lengths[missing], kind="stable")].tolist(), int(lengths[missing].sum())


def cache_teacher(
    args: OTDistillationConfig,
    methods: list[Method],
    teacher: OpticalModel,
    processor: OpticalProcessor,
    datasets: Iterable[Dataset | dict[str, Dataset] | None],
    autocast: torch.dtype | None,
) -> TeacherVectors | None:
    """Open the cache of the teacher's vectors with all texts of the datasets; `None` if the teacher reads none."""
    texts: dict[str, dict[str, None]] = {}
    for given in datasets:
        for dataset in given.values() if isinstance(given, dict) else [given] if given else []:
            for method in methods:
                for role, found in method.teacher_texts(dataset, args.teacher_language).items():
                    texts.setdefault(role, {}).update(dict.fromkeys(found))
    vectors = None
    for role in (role for role, found in texts.items() if found):
        vectors = TeacherVectors.prepare(
            teacher,
            processor,
            list(texts[role]),
            (role,),
            args.teacher_cache_dir,
            autocast=autocast,
            show_progress=not args.disable_tqdm,
        )
    return vectors


def _fingerprint(teacher: OpticalModel, autocast: torch.dtype | None) -> str:
    """Hash everything that the vectors depend on in addition to token ids and attention mask."""
    config = {name: value for name, value in teacher.config.encoder_config.to_dict().items() if name not in _NEUTRAL}
    settings = json.dumps([teacher.fingerprint(), config, str(autocast)], sort_keys=True, default=str)
    return hashlib.sha256(settings.encode()).hexdigest()[:32]


def _lengths_and_keys(batch: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of positions of each text without padding, and a hash of its tokens."""
    lengths = (batch["attention_mask"].bool() | batch["token_mask"]).sum(1).numpy()
    rows = torch.stack([batch["input_ids"], batch["attention_mask"]], 2).numpy()
    keys = [hashlib.blake2b(row[:length].tobytes(), digest_size=16) for row, length in zip(rows, lengths, strict=True)]
    return lengths, np.array([key.digest() for key in keys], "S16")


def _chunk(batch: dict[str, Tensor], read: Callable[[dict[str, Tensor]], Tensor]) -> pa.RecordBatch:
    lengths, keys = _lengths_and_keys(batch)
    vectors = read(batch)
    values = vectors[torch.arange(vectors.shape[1]) < torch.from_numpy(lengths)[:, None]].numpy()
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    columns = {
        "key": pa.Array.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(keys)]),
        "vectors": pa.LargeListArray.from_arrays(pa.array(np.append(0, lengths.cumsum())), tokens),
    }
    return pa.RecordBatch.from_pydict(columns)


def _write_shards(folder: Path, chunks: Iterator[pa.RecordBatch]) -> list[Path]:
    shards = []
    for first in chunks:
        with staged_directory(folder) as staged:
            path = staged / "shard"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
                for chunk in chain([first], chunks):
                    writer.write_batch(chunk)
                    if file.tell() >= _SHARD_BYTES:
                        break
            name = f"{_digest(path)}.arrow"
            path.rename(staged / name)
        shards.append(folder / name)
    return shards


def _digest(path: Path) -> str:
    with pa.memory_map(str(path)) as file:
        return hashlib.sha256(file.read_buffer()).hexdigest()


def _intact_shards(folder: Path) -> list[Path]:
    """Return the shards that match their hash, and remove damaged ones."""
    shards = []
    for shard in sorted(folder.glob("*.arrow")):
        # Another run may have removed it in the meantime.
        with suppress(FileNotFoundError):
            if _digest(shard) == shard.stem:
                shards.append(shard)
            else:
                logger.warning("Removing %s, which is damaged; its texts are encoded again.", shard)
                shard.unlink()
    return shards
