"""What a trainer needs before training: models opened, sentence pairs looked at, a language added to the student."""

from __future__ import annotations

import os

from datasets import Dataset
from peft import LoraConfig
from torch import Tensor

from ..bitext import inverse_document_frequency
from ..languages import add_adapter, default_lora_config, extend_processor, learn_vocabulary
from ..model import OpticalModel, OpticalProcessor
from .config import OTDistillationConfig


def check_languages(args: OTDistillationConfig, **datasets: Dataset | None) -> None:
    """Raises `ValueError` if a dataset lacks the language or the teacher's; each is named as its argument is."""
    for name, dataset in datasets.items():
        if dataset is None or len(dataset) == 0:
            continue
        found = sorted(dataset[0].get("translation") or ())
        for code in (args.language, args.teacher_language):
            if code not in found:
                raise ValueError(
                    f"{name} has no language {code!r} in `translation`; it has {', '.join(found) or 'none'}. "
                    "`load_bitext` makes such a dataset"
                )


def check_sizes(student: OpticalModel, teacher: OpticalModel) -> None:
    """Raises `ValueError` if the vectors of student and teacher are of different sizes."""
    if teacher.embedding_dim != student.embedding_dim:
        raise ValueError(
            f"the teacher's vectors have {teacher.embedding_dim} numbers and the student's {student.embedding_dim}; "
            f"open the student with projection_dim={teacher.embedding_dim}, or choose a teacher of its size"
        )


def token_weights(
    args: OTDistillationConfig, pairs: Dataset | None, student: OpticalProcessor, teacher: OpticalProcessor
) -> dict[str, Tensor]:
    """What each token counts for, as the collator takes it; nothing for uniform marginals."""
    if args.marginals == "uniform" or pairs is None:
        return {}
    texts = pairs["translation"]
    return {
        "student_weights": inverse_document_frequency(student, [text[args.language] for text in texts]),
        "teacher_weights": inverse_document_frequency(teacher, [text[args.teacher_language] for text in texts]),
    }


def prepare_student(
    model: OpticalModel,
    processor: OpticalProcessor,
    args: OTDistillationConfig,
    pairs: Dataset | None,
    peft_config: LoraConfig | None,
) -> OpticalProcessor:
    """Adds what is to be trained, new words and an adapter, and returns the processor that knows these words."""
    vocabulary = None
    if args.new_words:
        if pairs is None:
            raise ValueError("new_words are found in train_dataset; pass it, or set new_words=0")
        vocabulary = learn_vocabulary(
            model, processor, pairs, args.language, args.teacher_language, max_words=args.new_words
        )
        processor = extend_processor(processor, vocabulary.tokens)
    config = peft_config or default_lora_config(
        model,
        rank=args.lora_rank,
        alpha=args.lora_alpha,
        dropout=args.lora_dropout,
        targets=args.lora_targets,
        embeddings=args.lora_embeddings and not (vocabulary and vocabulary.tokens),
    )
    add_adapter(model, args.language, config, vocabulary)
    return processor


def open_model(
    model: str | OpticalModel, processor: OpticalProcessor | None, model_argument: str, processor_argument: str
) -> tuple[OpticalModel, OpticalProcessor]:
    """A model and its processor, opened if given by name; the base of a pack is no name."""
    if not isinstance(model, (str, os.PathLike)):
        if processor is None:
            raise ValueError(f"{model_argument} is a model, so {processor_argument} must be given beside it")
        return model, processor
    return OpticalModel.from_pretrained(model), processor or OpticalProcessor.from_pretrained(model)
