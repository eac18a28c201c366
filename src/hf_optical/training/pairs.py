"""Arguments of a run by language: its sentence pairs in any form, or a stream of them."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from ..bitext import load_bitext
from ..bitext.loading import translation_of
from ..bitext.sources import read_text
from ..bitext.triples import join_triples
from ..checks import check_choice, check_number
from ..errors import DataError
from ..methods import CodeSwitch, Method, name_of
from .config import OTDistillationConfig


# Sentence pairs of a stream that are read before training.
_STREAM_HEAD = 20_000


def by_language(args: OTDistillationConfig, name: str, given: Any, complete: bool = False) -> dict[str, Any]:
    """Return the argument `name` as a dict, language -> value; empty for `None`."""
    if given is None:
        return {}
    # The keys of a `DatasetDict` are splits.
    by_code = isinstance(given, dict) and not isinstance(given, DatasetDict)
    if not by_code and len(args.languages) == 1:
        return {args.languages[0]: given}
    codes = list(given) if by_code else []
    if not codes or not set(codes) <= set(args.languages) or (complete and len(codes) < len(args.languages)):
        raise ValueError(
            f"{name} must be a dict with a value for each of the languages {', '.join(args.languages)}, got "
            f"{', '.join(map(str, codes)) or type(given).__name__}"
        )
    return {language: given[language] for language in args.languages if language in given}


def pairs_by_language(
    args: OTDistillationConfig, name: str, dataset: Any, complete: bool = False
) -> dict[str, Dataset]:
    """As [`by_language`], for sentence pairs in any form that [`load_bitext`] takes."""
    pairs = {}
    for language, own in by_language(args, name, dataset, complete).items():
        columns = {"translation", "index", "length"}  # those of `load_bitext`
        loaded = isinstance(own, Dataset) and columns <= set(own.column_names) and len(own)
        if not loaded or not {language, args.teacher_language} <= set(own[0]["translation"] or ()):
            try:
                own = load_bitext(own, language, args.teacher_language)
            except DataError as error:
                raise DataError(f"{name} must hold sentence pairs in {language!r}: {error}") from error
        pairs[language] = own
    return pairs


def stream_of(args: OTDistillationConfig, dataset: Any) -> IterableDataset | None:
    """Return `train_dataset` if it is a stream, by itself or as the value of its language."""
    found = [own for own in by_language(args, "train_dataset", dataset).values() if isinstance(own, IterableDataset)]
    if found:
        check_choice("number of languages", len(args.languages), [1], "since a stream is of one language")
    return found[0] if found else None


def first_pairs(args: OTDistillationConfig, stream: IterableDataset) -> Dataset:
    """Read the first sentence pairs of a stream, from which vocabulary, token weights and dictionaries are learned."""
    check_number("max_steps", args.max_steps, at_least=1, cure="a stream has no length")
    check_choice("number of processes", args.world_size, [1], "since a stream is read by one process")
    check_choice("cache_teacher", args.cache_teacher, [None, False], "since a stream is read once")
    args.cache_teacher = False
    # accelerate would otherwise gather and split batches, which hold more than tensors.
    args.accelerator_config.dispatch_batches = False
    return load_bitext(stream.take(_STREAM_HEAD), args.languages[0], args.teacher_language)


def stream_pairs(args: OTDistillationConfig, stream: IterableDataset) -> IterableDataset:
    """The sentence pairs of a stream, as the collator takes them."""
    codes = (args.languages[0], args.teacher_language)

    def pair(row: dict[str, Any], index: int) -> dict[str, Any]:
        place = f"row {index} of the stream"
        texts = translation_of(row, place)
        return {"translation": {code: read_text(texts.get(code), code, place) for code in codes}, "index": index}

    return stream.map(pair, with_indices=True).select_columns(["translation", "index"])


def check_triples(methods: list[Method], triples: Dataset | None, streamed: bool) -> None:
    """Check that a method reads the triples, if there are any, and that they can be joined with the pairs."""
    if triples is None:
        return
    if not any(isinstance(method, CodeSwitch) for method in methods):
        raise ValueError(f"triples must come with code switching, got method={name_of(methods)!r}; leave them out")
    if streamed:
        raise ValueError("triples must come with sentence pairs of known number, not a stream; leave one of them out")


def with_triples(args: OTDistillationConfig, pairs: dict[str, Dataset], triples: Dataset | None) -> dict[str, Dataset]:
    """Join the sentence pairs of each language with the triples, if there are any."""
    if triples is None:
        return pairs
    return {language: join_triples(own, triples, args.seed) for language, own in pairs.items()}
