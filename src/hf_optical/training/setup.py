"""Setup of a run: open the models, check the sentence pairs, prepare what reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..bitext import load_bitext
from ..bitext.entries import Entries
from ..bitext.loading import iter_sentences, sample_evenly, translation_of
from ..bitext.sources import read_text
from ..bitext.triples import join_triples
from ..checks import check_choice, check_number
from ..errors import DataError
from ..evaluation import RetrievalEvaluator, from_bitext
from ..methods import CodeSwitch, DistillationCollator, LanguageData, Method, name_of
from ..model import OpticalModel, OpticalProcessor
from ..model.texts import is_blank
from ..retrieval.encoding import encode_texts
from .config import OTDistillationConfig
from .distributed import from_main_process
from .teacher import TeacherVectors


logger = logging.getLogger(__name__)

# Name of a test set made of held-out sentence pairs, on cards; and how many of them are searched.
HELD_OUT = "held-out sentence pairs"
_HELD_OUT = 2000
# Sentences by which losses are fitted to the teacher's vectors.
_SAMPLE = 300
# Sentence pairs of a stream that are read before training.
_STREAM_HEAD = 20_000


def by_language(args: OTDistillationConfig, name: str, given: Any, complete: bool = False) -> dict[str, Any]:
    """Return the argument `name` as a dict, language -> value; empty for `None`."""
    if given is None:
        return {}
    if not isinstance(given, dict) and len(args.languages) == 1:
        return {args.languages[0]: given}
    codes = list(given) if isinstance(given, dict) else []
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


def first_pairs(args: OTDistillationConfig, stream: IterableDataset) -> Dataset:
    """Read the first sentence pairs of a stream, from which vocabulary, token weights and dictionaries are learned."""
    check_number("max_steps", args.max_steps, at_least=1, cure="a stream has no length")
    check_choice("number of languages", len(args.languages), [1], "since a stream is of one language")
    check_choice("number of processes", args.world_size, [1], "since a stream is read by one process")
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

    return stream.map(pair, with_indices=True)


def held_out_evaluators(
    args: OTDistillationConfig, pairs: dict[str, Dataset], teacher: OpticalModel, processor: OpticalProcessor
) -> dict[str, RetrievalEvaluator]:
    """Language -> an evaluator that searches among held-out sentence pairs, at most 2,000."""
    evaluators = {}
    for language, own in pairs.items():
        codes = (language, args.teacher_language)
        whole = (row for row in own if not any(is_blank(row["translation"][code] or "") for code in codes))
        if rows := [*islice(whole, _HELD_OUT)]:
            dataset = from_bitext(rows, *codes, name=HELD_OUT)
            evaluators[language] = RetrievalEvaluator(dataset, teacher, processor)
    return evaluators


def training_texts(
    args: OTDistillationConfig,
    methods: list[Method],
    dataset: Dataset | dict[str, Dataset] | None,
    triples: Dataset | None,
) -> dict[str, Dataset]:
    """Join the sentence pairs with the triples, language -> rows, and let the methods check them."""
    pairs = pairs_by_language(args, "train_dataset", dataset, complete=True)
    if triples is not None:
        if not any(isinstance(method, CodeSwitch) for method in methods):
            raise ValueError(f"triples must come with code switching, got method={name_of(methods)!r}; leave them out")
        pairs = {language: join_triples(own, triples, args.seed) for language, own in pairs.items()}
    for method in methods:
        method.check(args.languages, pairs, args.teacher_language)
    return pairs


def check_optimizers(model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRScheduler | None) -> None:
    """Check an optimizer and a schedule that replace those of the settings."""
    if optimizer is None and lr_scheduler is None:
        return
    groups = [] if optimizer is None else optimizer.param_groups
    updated = {id(weight) for group in groups for weight in group["params"]}
    if not any(id(weight) in updated for weight in model.parameters() if weight.requires_grad):
        raise ValueError(
            "optimizers must contain an optimizer of the trained weights, and those of a pack are created by the "
            "trainer. Set args.optim and args.lr_scheduler_type, or override create_optimizer; or pass "
            "train_all_weights=True and the student as a model"
        )


def open_model(
    model: str | OpticalModel, processor: OpticalProcessor | None, model_argument: str, processor_argument: str
) -> tuple[OpticalModel, OpticalProcessor]:
    """Return a model and its processor, opened if given by name."""
    if isinstance(model, (str, os.PathLike)):
        return OpticalModel.from_pretrained(model), processor or OpticalProcessor.from_pretrained(model)
    if not isinstance(model, OpticalModel) or not isinstance(processor, OpticalProcessor):
        raise TypeError(
            f"{model_argument} must be a name, or an OpticalModel together with {processor_argument}, an "
            f"OpticalProcessor; got {type(model).__name__} and {type(processor).__name__}"
        )
    return model, processor


def disable_dropout(model: nn.Module) -> None:
    """Turn off the dropout of a model. Adapters that are added later keep theirs."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def show_teacher(
    args: OTDistillationConfig,
    methods: list[Method],
    pairs: dict[str, Dataset],
    teacher: OpticalModel,
    processor: OpticalProcessor,
) -> None:
    """Let the teacher read some sentences of each language, and the methods look at the vectors."""
    for language, own in pairs.items():
        texts = iter_sentences(sample_evenly(own, _SAMPLE), args.teacher_language)
        sample = [*dict.fromkeys(text for text in texts if not is_blank(text))]

        def read(sample: list[str] = sample) -> list[Tensor]:
            return encode_texts(teacher.to(args.device), processor, sample, "query").to_list()

        if sentences := from_main_process(read) if sample else []:
            for method in methods:
                method.see_teacher(language, sentences)


def make_collator(
    args: OTDistillationConfig,
    methods: list[Method],
    pairs: dict[str, Dataset],
    processors: dict[str, OpticalProcessor],
    base_processor: OpticalProcessor,
    teacher_processor: OpticalProcessor,
    entries: dict[str, Entries],
) -> DistillationCollator:
    """Make the collator for all languages and methods."""
    data = [
        LanguageData(
            language,
            args.teacher_language,
            pairs.get(language),
            processor,
            base_processor,
            teacher_processor,
            entries.get(language),
        )
        for language, processor in processors.items()
    ]
    readers = {each.language: [method.reader(each) for method in methods] for each in data}
    return DistillationCollator(readers, processors)


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
