"""What a trainer needs before training: models opened, sentence pairs checked, packs added to the student."""

from __future__ import annotations

import os
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import set_seed

from ..evaluation import RetrievalDataset, RetrievalEvaluator
from ..languages import add_adapter, default_lora_config, extend_processor, learn_vocabulary, make_trainable
from ..methods import DistillationCollator, LanguageData, Method
from ..model import OpticalModel, OpticalProcessor
from .config import OTDistillationConfig


def by_language(args: OTDistillationConfig, name: str, given: Any, complete: bool = False) -> dict[str, Any]:
    """
    Return the argument `name` as a dict, language -> value; empty for `None`.

    Raises:
        ValueError: `given` is a single value for several languages, or is for languages that are not taught, or has
            to be `complete` and lacks one.
    """
    if given is None:
        return {}
    if not isinstance(given, dict) and len(args.languages) == 1:
        return {args.languages[0]: given}
    codes = set(given) if isinstance(given, dict) else set()
    if not codes or not codes <= set(args.languages) or (complete and len(codes) < len(args.languages)):
        raise ValueError(
            f"{name} must be a dict with a value for each of the languages {', '.join(args.languages)}, got "
            f"{', '.join(map(str, codes)) or type(given).__name__}"
        )
    return {language: given[language] for language in args.languages if language in given}


def pairs_by_language(
    args: OTDistillationConfig, name: str, dataset: Dataset | dict[str, Dataset] | None, complete: bool = False
) -> dict[str, Dataset]:
    """As [`by_language`], for sentence pairs; raises `ValueError` too if there are none or a side is missing."""
    pairs = by_language(args, name, dataset, complete)
    for language, own in pairs.items():
        found = set(own[0].get("translation") or ()) if len(own) else set()
        if not {language, args.teacher_language} <= found:
            raise ValueError(
                f"{name} must have rows with {language!r} and {args.teacher_language!r} in `translation`, got "
                f"{len(own)} rows with {', '.join(sorted(found)) or 'no language'}; use load_bitext"
            )
    return pairs


def check_sizes(student: OpticalModel, teacher: OpticalModel) -> None:
    """Raise `ValueError` if the vectors of student and teacher differ in size."""
    if teacher.embedding_dim != student.embedding_dim:
        raise ValueError(
            f"student and teacher must have vectors of one size, got {student.embedding_dim} and "
            f"{teacher.embedding_dim}; open the student with projection_dim={teacher.embedding_dim}, or choose a "
            "teacher of its size"
        )


def check_optimizers(model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRScheduler | None) -> None:
    """
    Check an optimizer and a schedule that replace those of the settings.

    Raises:
        ValueError: the optimizer updates none of the trained weights, or a schedule comes without its optimizer.
    """
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
    if processor is None:
        raise ValueError(f"{processor_argument} must be passed with a {model_argument} that is already open")
    return model, processor


def disable_dropout(model: nn.Module) -> None:
    """Turn off the dropout of a model. Adapters that are added later keep theirs."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def add_packs(
    model: OpticalModel,
    processor: OpticalProcessor,
    args: OTDistillationConfig,
    pairs: dict[str, Dataset],
    peft_config: LoraConfig | None,
) -> dict[str, OpticalProcessor]:
    """Add the packs to train, and return language -> the processor that knows the new words of its pack."""
    processors = dict.fromkeys(args.languages, processor)
    for pack, members in args.packs.items():
        # So that a pack starts the same, whichever are trained with it.
        set_seed(args.seed)
        vocabulary = None
        if args.new_words:
            if not pairs:
                raise ValueError("new_words are found in train_dataset; pass it, or set new_words=0")
            vocabulary = learn_vocabulary(
                model,
                processor,
                _pairs_of_pack(pairs, pack, members, args.teacher_language),
                pack,
                args.teacher_language,
                max_words=args.new_words,
            )
            processors |= dict.fromkeys(members, extend_processor(processor, vocabulary.tokens))
        config = peft_config or default_lora_config(
            model,
            rank=args.lora_rank,
            alpha=args.lora_alpha,
            dropout=args.lora_dropout,
            targets=args.lora_targets,
            embeddings=args.lora_embeddings and not (vocabulary and vocabulary.tokens),
        )
        add_adapter(model, pack, config, vocabulary)
    if args.packs:
        make_trainable(model, list(args.packs))
    return processors


def _pairs_of_pack(pairs: dict[str, Dataset], pack: str, members: list[str], teacher_language: str) -> Dataset:
    """The sentence pairs of all languages in a pack, under its code as if it were one language."""
    if members == [pack]:
        return pairs[pack]
    texts = [
        {pack: translation[language], teacher_language: translation[teacher_language]}
        for language in members
        for translation in pairs[language]["translation"]
    ]
    return Dataset.from_dict({"translation": texts})


def make_collator(
    args: OTDistillationConfig,
    methods: list[Method],
    pairs: dict[str, Dataset],
    processors: dict[str, OpticalProcessor],
    base_processor: OpticalProcessor,
    teacher_processor: OpticalProcessor,
) -> DistillationCollator:
    """Make the collator of all languages and methods."""
    data = [
        LanguageData(
            language, args.teacher_language, pairs.get(language), processor, base_processor, teacher_processor
        )
        for language, processor in processors.items()
    ]
    return DistillationCollator(
        {each.language: [method.reader(each) for method in methods] for each in data}, processors
    )


def teacher_texts(methods: list[Method], datasets: list[Dataset], teacher_language: str) -> dict[str, list[str]]:
    """Role -> every text of these datasets that the teacher reads in it, each once."""
    texts: dict[str, dict[str, None]] = {}
    for dataset in datasets:
        for method in methods:
            for role, found in method.teacher_texts(dataset, teacher_language).items():
                texts.setdefault(role, {}).update(dict.fromkeys(found))
    return {role: list(found) for role, found in texts.items() if found}


def build_evaluators(
    datasets: dict[str, RetrievalDataset], teacher: OpticalModel, processor: OpticalProcessor
) -> dict[str, RetrievalEvaluator]:
    """Make an evaluator for each language; the teacher encodes a corpus that languages share once."""
    evaluators: dict[str, RetrievalEvaluator] = {}
    for language, dataset in datasets.items():
        vectors = None
        # The main process alone searches.
        if PartialState().is_main_process:
            same = (other for other in evaluators.values() if other.dataset.corpus == dataset.corpus)
            vectors = next((other.document_vectors for other in same), None)
        evaluators[language] = RetrievalEvaluator(
            dataset, teacher, processor, document_vectors=vectors, show_progress=True
        )
    return evaluators
