"""Setup of a run: open the models, add the packs, prepare the sentence pairs and what reads them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from datasets import Dataset, IterableDataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer_utils import IntervalStrategy

from ..bitext.entries import Entries
from ..bitext.loading import iter_sentences, sample_evenly
from ..evaluation import RetrievalEvaluator, from_bitext
from ..languages import LanguagePack
from ..losses.geometry import mean_vector
from ..methods import CodeSwitch, DistillationCollator, LanguageData, Method
from ..model import OpticalModel, OpticalProcessor
from ..model.texts import is_blank
from ..retrieval.encoding import encode_texts
from .config import OTDistillationConfig
from .dictionaries import add_switched, english_sentences, make_pairs, read_dictionaries
from .distributed import from_main_process
from .packs import PackMaker
from .pairs import (
    by_language,
    check_triples,
    first_pairs,
    pairs_by_language,
    stream_of,
    stream_pairs,
    with_triples,
)
from .plain_text import check_texts
from .projection import project_student
from .record import RunRecord
from .relatives import describe, open_relative
from .sampling import join_languages


logger = logging.getLogger(__name__)

# Name of a test set made of held-out sentence pairs, on cards; and how many of them are searched.
HELD_OUT = "held-out sentence pairs"
_HELD_OUT = 2000
# Sentences by which losses are fitted to the teacher's vectors.
_SAMPLE = 300
# Length of the mean of the teacher's vectors, above which they lie in a narrow cone: .15 for all-MiniLM-L6-v2, .79 for
# multilingual-e5-small.
_CONE = 0.5


class _Models(NamedTuple):
    student: OpticalModel
    processor: OpticalProcessor
    teacher: OpticalModel
    teacher_processor: OpticalProcessor


@dataclass
class PreparedRun:
    """
    Models, packs and sentence pairs of a run, ready to train.

    Attributes:
        student ([`OpticalModel`]), teacher ([`OpticalModel`]): The student with its packs, and the frozen teacher.
        processor ([`OpticalProcessor`]), teacher_processor ([`OpticalProcessor`]): Those of the models without packs.
        base_fingerprint (`str`): Fingerprint of the student.
        processors (`dict[str, OpticalProcessor]`): Language -> its processor, with the new words of its pack.
        strengths (`dict[str, float]`): Pack -> its strength after training.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): The sentence pairs of all languages.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*): Those that are held out.
        collator ([`DistillationCollator`]): Makes batches of them.
        evaluators (`dict[str, RetrievalEvaluator]`): Language -> the evaluator that was given.
        pair_evaluators (`dict[str, RetrievalEvaluator]`): For the other languages, search among held-out pairs.
        text_words (`dict[str, int]`): Language -> number of running words of plain text.
        record ([`RunRecord`]): What packs and cards say about the run.
    """

    student: OpticalModel
    processor: OpticalProcessor
    teacher: OpticalModel
    teacher_processor: OpticalProcessor
    base_fingerprint: str
    processors: dict[str, OpticalProcessor]
    strengths: dict[str, float]
    train_dataset: Dataset | IterableDataset
    eval_dataset: Dataset | dict[str, Dataset] | None
    collator: DistillationCollator
    evaluators: dict[str, RetrievalEvaluator]
    pair_evaluators: dict[str, RetrievalEvaluator]
    text_words: dict[str, int]
    record: RunRecord


def prepare_run(
    args: OTDistillationConfig,
    methods: list[Method],
    model: str | OpticalModel,
    teacher: str | OpticalModel,
    *,
    train_dataset: Dataset | dict[str, Dataset] | None,
    eval_dataset: Dataset | dict[str, Dataset] | None,
    processing_class: OpticalProcessor | None,
    teacher_processing_class: OpticalProcessor | None,
    retrieval_evaluator: RetrievalEvaluator | dict[str, RetrievalEvaluator] | None,
    peft_config: LoraConfig | None,
    triples: Dataset | None,
    english_texts: Sequence[str] | None,
    monolingual_texts: Sequence[str] | Mapping[str, Sequence[str]] | None,
) -> PreparedRun:
    """Open the models, add the packs and prepare the sentence pairs; arguments as in [`OTDistillationTrainer`]."""
    # Check everything that needs no model before opening one.
    stream = stream_of(args, train_dataset)
    pairs = pairs_by_language(
        args, "train_dataset", train_dataset if stream is None else first_pairs(args, stream), complete=True
    )
    check_triples(methods, triples, streamed=stream is not None)
    if english_texts and stream is not None:
        raise ValueError("english_texts cannot join a stream of sentence pairs; leave one of them out")
    if english_texts and not (pairs or args.dictionary):
        raise ValueError(
            "english_texts must come with sentence pairs or a dictionary, which tell what words to switch; pass one"
        )
    # Without sentence pairs, dictionaries make them from English sentences.
    from_dictionary = bool(args.dictionary) and not pairs
    if english_texts and not args.switched_sentences:
        raise ValueError("english_texts has no use with switched_sentences=0; leave one of them out")
    sentences = english_sentences(english_texts, args.switched_sentences)
    switches = bool(sentences) or any(isinstance(method, CodeSwitch) for method in methods)
    if args.dictionary and not (args.new_words or switches):
        found = "english_texts has no sentence" if english_texts else "there is no English text"
        raise ValueError(
            f"dictionary must be left out, since new_words=0 adds no words and {found} to switch words in; or pass "
            "other english_texts (--english_file)"
        )
    eval_pairs = pairs_by_language(args, "eval_dataset", eval_dataset)
    evaluators = by_language(args, "retrieval_evaluator", retrieval_evaluator)
    if not from_dictionary:
        settle_evaluation(args, bool(eval_pairs or evaluators))

    relative = open_relative(args, peft_config)
    models, projection = open_models(
        args, model, teacher, processing_class, teacher_processing_class, pairs, sentences, relative
    )
    student, processor, teacher, teacher_processor = models
    for method in methods:
        method.start(student)
    base_fingerprint = student.fingerprint()
    if args.disable_dropout:
        disable_dropout(student)

    entries = read_dictionaries(args, pairs, teacher_processor)
    texts = by_language(args, "monolingual_texts", monolingual_texts)
    text_words = check_texts(args, texts, pairs, entries, processor)
    packs = PackMaker(args, *models, entries, texts, relative, peft_config)
    if stream is None and not args.keep_misaligned:
        processors, strengths, pairs = packs.add_without_misaligned(methods, pairs)
    else:
        processors, strengths = packs.add(pairs)

    pair_evaluators = {}
    if args.evaluate_on_pairs:
        others = {code: own for code, own in eval_pairs.items() if code not in evaluators}
        pair_evaluators = held_out_evaluators(args, others, teacher, teacher_processor)
    ranked_alone = triples is not None and all(isinstance(method, CodeSwitch) for method in methods)
    if from_dictionary:
        pairs, held_out = make_pairs(args, entries, sentences)
        eval_pairs = held_out | eval_pairs
        settle_evaluation(args, bool(eval_pairs or evaluators))
    elif sentences and not ranked_alone:  # a method that ranks triples alone would not read them
        pairs = add_switched(args, pairs, entries, sentences, processor.tokenizer)
    trained = not from_dictionary or bool(sentences) or ranked_alone
    if not trained:
        logger.warning(
            "There is no text to train on, so the new words are not trained; pass --english_file, or --eval_dir with "
            "the documents of an index."
        )
    args.settle_length(pairs, trained)
    pairs = with_triples(args, pairs, triples)
    show_teacher(args, methods, pairs, teacher, teacher_processor)
    joined = join_languages(pairs) if len(pairs) > 1 else pairs.get(args.languages[0])
    return PreparedRun(
        student=student,
        processor=processor,
        teacher=teacher,
        teacher_processor=teacher_processor,
        base_fingerprint=base_fingerprint,
        processors=processors,
        strengths=strengths,
        train_dataset=joined if stream is None else stream_pairs(args, stream),
        eval_dataset=eval_dataset_of(args, eval_pairs, evaluators),
        collator=make_collator(args, methods, pairs, processors, processor, teacher_processor, entries),
        evaluators=evaluators,
        pair_evaluators=pair_evaluators,
        text_words=text_words,
        record=RunRecord(
            args,
            methods,
            teacher,
            pairs,
            triples=0 if triples is None else len(triples),
            lora_rank=relative.lora_config.r if relative else peft_config.r if peft_config else None,
            streamed=stream is not None,
            entries=entries,
            text_words=text_words,
            from_dictionary=from_dictionary,
            projection=projection,
            init_pack=None if relative is None else describe(relative, args.init_pack or ""),
        ),
    )


def eval_dataset_of(
    args: OTDistillationConfig, pairs: dict[str, Dataset], evaluators: dict[str, RetrievalEvaluator]
) -> Dataset | dict[str, Dataset] | None:
    """The sentence pairs to evaluate on, as Trainer takes them; without any, `None` lets it refuse to evaluate."""
    own = pairs if len(args.languages) > 1 else pairs.get(args.languages[0])
    return own or ({} if evaluators else None)


def settle_evaluation(args: OTDistillationConfig, possible: bool) -> None:
    """Turn evaluation off if there is nothing to evaluate on."""
    if possible or args.eval_strategy == "no":
        return
    if args.load_best_model_at_end:
        raise ValueError(
            "eval_dataset or retrieval_evaluator must be given with load_best_model_at_end, to find the best; pass one"
        )
    logger.info("There is nothing to evaluate on while training; pass an eval_dataset or a retrieval_evaluator.")
    args.eval_strategy = IntervalStrategy.NO


def open_models(
    args: OTDistillationConfig,
    model: str | OpticalModel,
    teacher: str | OpticalModel,
    processing_class: OpticalProcessor | None,
    teacher_processing_class: OpticalProcessor | None,
    pairs: dict[str, Dataset],
    sentences: list[str],
    relative: LanguagePack | None,
) -> tuple[_Models, str | None]:
    """Open student and teacher; also return a sentence on the projection of the student, if it has one."""
    same = teacher is model
    student, processor = open_model(model, processing_class, "model", "processing_class")
    teacher_processor = teacher_processing_class or (processor if same else None)
    opened, teacher_processor = open_model(teacher, teacher_processor, "teacher", "teacher_processing_class")
    readers = (student, processor, opened, teacher_processor)
    student, projection = project_student(args, *readers, pairs, sentences, relative)
    if relative is not None:
        relative.check_base(student)
    frozen = (copy.deepcopy(opened) if same else opened).eval().requires_grad_(False)
    return _Models(student, processor, frozen, teacher_processor), projection


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
    lengths = []
    for language, own in pairs.items():
        texts = iter_sentences(sample_evenly(own, _SAMPLE), args.teacher_language)
        sample = [*dict.fromkeys(text for text in texts if not is_blank(text))]

        def read(sample: list[str] = sample) -> list[Tensor]:
            return encode_texts(teacher.to(args.device), processor, sample, "query").to_list()

        if sentences := from_main_process(read) if sample else []:
            lengths.append(mean_vector(sentences).norm().item())
            for method in methods:
                method.see_teacher(language, sentences)
    if lengths and max(lengths) > _CONE:
        logger.warning(
            "The token vectors of the teacher are much alike: their mean has a length of %.2f. `hf-optical base "
            "--center` makes a base of it that often finds more, whose index is another one.",
            max(lengths),
        )


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
