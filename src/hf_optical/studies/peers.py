"""The recipe of sentence-transformers for a new language, as a baseline that runs through that library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from ..checks import import_optional
from ..errors import DataError
from ..storage.fetching import local_folder


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train_dense_peer(
    student: str | os.PathLike | SentenceTransformer,
    teacher: str | os.PathLike | SentenceTransformer,
    pairs: Dataset,
    language: str,
    *,
    output_dir: str | os.PathLike,
    teacher_language: str = "en",
    epochs: float = 5,
    batch_size: int = 64,
    learning_rate: float = 2e-5,
    seed: int = 42,
    bf16: bool = False,
    encode_batch_size: int = 128,
    **training_arguments: Any,
) -> SentenceTransformer:
    """
    Multilingual knowledge distillation (Reimers & Gurevych 2020, arXiv 2004.09813) with sentence-transformers.

    The mean squared error pulls the student's vectors of a sentence and of its translation towards the teacher's
    vector of the sentence: `SentenceTransformerTrainer` with `MSELoss`, training all weights. The defaults are those
    of that library's example.

    Models are folders, Hub ids or open models; an open student is modified. A folder of this library is opened with
    mean pooling. If the teacher normalises its vectors, so will the student. `training_arguments` are other fields of
    `SentenceTransformerTrainingArguments`, such as `max_steps`. The trained student is saved in `output_dir`.

    Raises:
        DataError: `pairs` is empty or lacks a language.
        ImportError: sentence-transformers is not installed.
        ValueError: student and teacher have vectors of different sizes.
    """
    library = import_optional("sentence_transformers", "rivals")
    from sentence_transformers.sentence_transformer.losses import MSELoss

    english, translations = (_texts(pairs, code) for code in (teacher_language, language))
    student, teacher = open_dense(student), open_dense(teacher)
    _match(student, teacher)
    labels = teacher.encode(english, batch_size=encode_batch_size)
    arguments = {
        "output_dir": os.fspath(output_dir),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": 0.1,  # a share of all steps
        "seed": seed,
        "bf16": bf16,
        "save_strategy": "no",
        "report_to": "none",
    }
    trainer = library.SentenceTransformerTrainer(
        model=student,
        args=library.SentenceTransformerTrainingArguments(**arguments | training_arguments),
        train_dataset=Dataset.from_dict({"english": english, "non_english": translations, "label": labels}),
        loss=MSELoss(student),
    )
    trainer.train()
    student.save_pretrained(os.fspath(output_dir))
    return student.eval()


def dense_vectors(model: SentenceTransformer, texts: Sequence[str]) -> Tensor:
    """Unit vectors of shape `(texts, 1, dim)`. With one vector per text, MaxSim is the cosine."""
    vectors = model.encode(list(texts), batch_size=32, convert_to_tensor=True, normalize_embeddings=True)
    return vectors.float().unsqueeze(1)


def open_dense(
    model: str | os.PathLike | SentenceTransformer, device: str | torch.device | None = None
) -> SentenceTransformer:
    """Open a sentence encoder by name; a model is returned as it is."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    return import_optional("sentence_transformers", "rivals").SentenceTransformer(
        str(local_folder(model)), device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )


def _match(student: SentenceTransformer, teacher: SentenceTransformer) -> None:
    """Normalise the student's vectors if the teacher does."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    own, size = (model.get_embedding_dimension() for model in (student, teacher))
    if own != size:
        raise ValueError(f"student and teacher must have vectors of one size, got {own} and {size}")
    normalised = [any(isinstance(module, Normalize) for module in model) for model in (student, teacher)]
    if normalised == [False, True]:
        student.append(Normalize())


def _texts(pairs: Dataset, language: str) -> list[str]:
    if not len(pairs) or language not in pairs[0].get("translation", ()):
        raise DataError(f"pairs must have texts in {language!r}; pass what load_bitext returned, with its languages")
    return [pair[language] for pair in pairs["translation"]]
