"""What a trainer needs before training: models opened, sentence pairs looked at, packs added to the student."""

from __future__ import annotations

import logging
import os
from itertools import chain, islice
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import set_seed

from ..bitext import (
    CodeSwitchedRanking,
    CodeSwitcher,
    Dictionary,
    DistillationCollator,
    MultilingualCollator,
    inverse_document_frequency,
    learn_dictionary,
    read_muse,
)
from ..bitext.loading import sentences
from ..errors import DataError
from ..languages import add_adapter, default_lora_config, extend_processor, learn_vocabulary, make_trainable
from ..losses import GreedyAlignmentLoss, OTAlignmentLoss, SentenceMSELoss
from ..model import OpticalModel, OpticalProcessor
from .config import OTDistillationConfig


logger = logging.getLogger(__name__)

_TRANSPORT = ("solver", "epsilon", "max_iterations", "tolerance", "marginal_penalty", "transported_mass")


def by_language(args: OTDistillationConfig, name: str, given: Any, complete: bool = False) -> dict[str, Any]:
    """
    Language -> what is given for it as the argument `name`: one thing for one language, or a dict; nothing for `None`.

    Raises:
        ValueError: `given` is one and the languages are several, or it is for languages that are not taught, or it is
            to be `complete` and lacks one.
    """
    if given is None:
        return {}
    taught = ", ".join(args.languages)
    if not isinstance(given, dict):
        if len(args.languages) > 1:
            raise ValueError(f"{name} is one, for the languages {taught}; pass a dict with one for each")
        return {args.languages[0]: given}
    if not given or not given.keys() <= set(args.languages) or (complete and len(given) < len(args.languages)):
        raise ValueError(f"{name} is for {', '.join(given) or 'no language'}, and the languages are {taught}")
    return {language: given[language] for language in args.languages if language in given}


def pairs_by_language(
    args: OTDistillationConfig, name: str, dataset: Dataset | dict[str, Dataset] | None, complete: bool = False
) -> dict[str, Dataset]:
    """As [`by_language`], for sentence pairs; raises `ValueError` too if some are empty or lack one of their sides."""
    pairs = by_language(args, name, dataset, complete)
    for language, own in pairs.items():
        place = f"{name}[{language!r}]" if len(args.languages) > 1 else name
        if len(own) == 0:
            raise ValueError(f"{place} is empty; pass sentence pairs")
        found = sorted(own[0].get("translation") or ())
        for code in (language, args.teacher_language):
            if code not in found:
                raise ValueError(
                    f"{place} has no language {code!r} in `translation`; it has {', '.join(found) or 'none'}. "
                    "`load_bitext` makes such a dataset"
                )
    return pairs


def check_use(args: OTDistillationConfig, **given: Any) -> None:
    """Raises `ValueError` if the method has no use for `loss` or `triples` and one is given."""
    for name, used, purpose in (("loss", args.aligns, "aligned sentences"), ("triples", args.ranks, "code switching")):
        if given[name] is not None and not used:
            raise ValueError(f"{name} is for {purpose}, and method is {args.method!r}; leave it out")


def read_dictionaries(args: OTDistillationConfig, texts: dict[str, Dataset]) -> dict[str, Dictionary]:
    """
    Language -> the dictionary named for it, if any; before what takes time.

    Args:
        args ([`OTDistillationConfig`]): the settings.
        texts (`dict[str, Dataset]`): language -> what it is to switch, sentence pairs or triples; may be empty.

    Raises:
        DataError: a dictionary cannot be read, or replaces no word of these texts.
    """
    dictionaries = {}
    for language, file in zip(args.languages, args.dictionary or (), strict=False):
        dictionaries[language] = read_muse(file)
        if language in texts and not _coverage(dictionaries[language], texts[language], args.teacher_language):
            raise DataError(
                f"dictionary {file} replaces no word of the {args.teacher_language!r} texts; is it "
                f"{args.teacher_language!r} to {language!r}, that word first?"
            )
    return dictionaries


def check_sizes(student: OpticalModel, teacher: OpticalModel) -> None:
    """Raises `ValueError` if the vectors of student and teacher are of different sizes."""
    if teacher.embedding_dim != student.embedding_dim:
        raise ValueError(
            f"the teacher's vectors have {teacher.embedding_dim} numbers and the student's {student.embedding_dim}; "
            f"open the student with projection_dim={teacher.embedding_dim}, or choose a teacher of its size"
        )


def check_optimizers(model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRScheduler | None) -> None:
    """
    What is given in place of the optimizer and schedule that the settings describe has to move the weights that train.

    Raises:
        ValueError: the optimizer holds none of them, or a schedule comes without its optimizer.
    """
    if optimizer is None and lr_scheduler is not None:
        raise ValueError(
            "optimizers has a schedule and no optimizer, so it would set the rate of one that trains nothing; set "
            "args.lr_scheduler_type, or override create_scheduler"
        )
    if optimizer is None:
        return
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not any(id(weight) in held for weight in model.parameters() if weight.requires_grad):
        raise ValueError(
            "optimizers holds none of the weights that are trained: those of a pack are made by the trainer itself. "
            "Set args.optim, or override create_optimizer; or pass train_all_weights=True and the student as a model"
        )


def prepare_student(
    model: OpticalModel,
    processor: OpticalProcessor,
    args: OTDistillationConfig,
    pairs: dict[str, Dataset],
    peft_config: LoraConfig | None,
) -> dict[str, OpticalProcessor]:
    """Adds the packs to be trained, and returns for each language the processor that knows its pack's new words."""
    processors = dict.fromkeys(args.languages, processor)
    for pack, members in args.packs.items():
        # So that a pack starts the same, whichever are beside it.
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
    pairs: dict[str, Dataset],
    processors: dict[str, OpticalProcessor],
    teacher_processor: OpticalProcessor,
    base_processor: OpticalProcessor,
    dictionaries: dict[str, Dictionary],
) -> DistillationCollator | MultilingualCollator:
    """What turns sentence pairs into batches; the weights of the tokens are counted for each language by itself."""
    collators = {}
    for language, processor in processors.items():
        weights, ranking = {}, None
        if args.ranks:
            ranking = _make_ranking(args, language, pairs, processor, dictionaries.get(language))
        if args.aligns and args.marginals == "idf" and pairs:
            own = pairs[language]
            weights["student_weights"] = inverse_document_frequency(processor, sentences(own, language))
            weights["teacher_weights"] = inverse_document_frequency(
                teacher_processor, sentences(own, args.teacher_language)
            )
        collators[language] = DistillationCollator(
            student_processor=processor,
            teacher_processor=teacher_processor,
            language=language,
            teacher_language=args.teacher_language,
            roles=args.roles,
            align=args.aligns,
            anchor=base_processor if args.anchor_weight else None,
            ranking=ranking,
            align_special_tokens=args.align_special_tokens,
            **weights,
        )
    return MultilingualCollator(collators) if len(collators) > 1 else collators[args.languages[0]]


def _make_ranking(
    args: OTDistillationConfig,
    language: str,
    pairs: dict[str, Dataset],
    processor: OpticalProcessor,
    dictionary: Dictionary | None,
) -> CodeSwitchedRanking:
    """What the student ranks, switched by a dictionary that is given, or learned from the sentence pairs."""
    if dictionary is None and not pairs:
        raise ValueError("without train_dataset there is nothing to learn words from; pass it, or dictionary")
    if dictionary is None:
        dictionary = learn_dictionary(pairs[language], processor.tokenizer, language, args.teacher_language)
    if pairs:
        share = _coverage(dictionary, pairs[language], args.teacher_language)
        # Of one the wrong way round, names and borrowed words are found.
        level = logging.INFO if share > 0.05 else logging.WARNING
        logger.log(level, "The dictionary for %s holds %.1f %% of the words to switch.", language, 100 * share)
    switch_query = switch_document = None
    if args.switch_side != "document":
        switch_query = CodeSwitcher(dictionary, args.switch_probability, args.seed)
    if args.switch_side != "query":
        switch_document = CodeSwitcher(dictionary, args.switch_probability, f"{args.seed} document")
    # An English word that is left as it is must not be read as a word of the new language that is spelled like it.
    reader = OpticalProcessor(processor.tokenizer, **processor.roles)
    return CodeSwitchedRanking(reader, switch_query, switch_document, labels=args.ranking_target == "labels")


def alignment_loss(args: OTDistillationConfig) -> nn.Module | None:
    """The loss that aligns a sentence with its translation, if the method does."""
    if args.method == "greedy":
        return GreedyAlignmentLoss()
    if args.method == "sentence":
        return SentenceMSELoss()
    return OTAlignmentLoss(**{name: getattr(args, name) for name in _TRANSPORT}) if args.aligns else None


def teacher_texts(args: OTDistillationConfig, datasets: list[Dataset]) -> dict[str, list[str]]:
    """Role -> every text of these datasets that the teacher reads in it."""
    texts: dict[str, list[str]] = {"document": [], "query": []}
    for own in datasets:
        for role in args.roles if args.aligns else ():
            texts[role] += sentences(own, args.teacher_language)
        if args.ranks:
            queries, documents = _ranked(own, args.teacher_language)
            texts["document"] += documents
            texts["query"] += queries if args.ranking_target == "teacher" else []
    return {role: list(dict.fromkeys(found)) for role, found in texts.items() if found}


def _ranked(texts: Dataset, teacher_language: str) -> tuple[list[str], list[str]]:
    """Queries and documents, of triples if there are any, or else of sentence pairs."""
    if "query" not in texts.column_names:
        return (list(sentences(texts, teacher_language)),) * 2
    negatives = [negative for row in texts["negatives"] for negative in row]
    return list(texts["query"]), [*texts["positive"], *negatives]


def _coverage(dictionary: Dictionary, texts: Dataset, teacher_language: str) -> float:
    """The share of the words that may be switched that a dictionary holds, in the first ten thousand texts."""
    return dictionary.coverage(islice(chain(*_ranked(texts, teacher_language)), 10_000))


def open_model(
    model: str | OpticalModel, processor: OpticalProcessor | None, model_argument: str, processor_argument: str
) -> tuple[OpticalModel, OpticalProcessor]:
    """A model and its processor, opened if given by name; the base of a pack is no name."""
    if not isinstance(model, (str, os.PathLike)):
        if processor is None:
            raise ValueError(f"{model_argument} is a model, so {processor_argument} must be given beside it")
        return model, processor
    return OpticalModel.from_pretrained(model), processor or OpticalProcessor.from_pretrained(model)
