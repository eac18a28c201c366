"""Rivals that are models: some as they are, and the recipe of sentence-transformers for a new language."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from ..checks import import_optional
from ..errors import DataError
from ..model import OpticalProcessor
from ..retrieval import OpticalRetriever, TokenVectors, encode_texts
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
    mean pooling. If the teacher normalises its vectors, so will the student; if they differ in size, the student gets
    a linear layer. `training_arguments` are other fields of
    `SentenceTransformerTrainingArguments`, such as `max_steps`. The trained student is saved in `output_dir`.

    Raises:
        DataError: `pairs` is empty or lacks a language.
        ImportError: sentence-transformers is not installed.
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


@dataclass(frozen=True)
class Encoders:
    """How a system encodes queries and documents."""

    queries: Callable[[list[str]], TokenVectors]
    documents: Callable[[list[str]], TokenVectors]


def late_interaction_encoders(
    model: str | os.PathLike,
    *,
    query_prompt: str = "",
    document_prompt: str = "",
    device: str | torch.device | None = None,
) -> Encoders:
    """A model in any layout that this library reads, with token vectors. Prompts replace those of the model."""
    retriever = OpticalRetriever.from_pretrained(model, device=device)
    given = {"query_prompt": query_prompt, "document_prompt": document_prompt}
    roles = {**retriever.processor.roles, **{name: prompt for name, prompt in given.items() if prompt}}
    processor = OpticalProcessor(retriever.processor.tokenizer, **roles)

    def encode(texts: list[str], role: str) -> TokenVectors:
        return encode_texts(retriever.model, processor, texts, role)

    return Encoders(partial(encode, role="query"), partial(encode, role="document"))


def sentence_encoders(
    model: str | os.PathLike,
    *,
    query_prompt: str = "",
    document_prompt: str = "",
    device: str | torch.device | None = None,
) -> Encoders:
    """A sentence encoder, with one vector a text; a folder that names no pooling is opened with mean pooling."""
    opened = open_dense(model, device)

    def encode(texts: list[str], encode_role: Callable[..., Tensor], prompt: str) -> TokenVectors:
        # Without one of ours, the library uses that of the model, if there is one.
        own = {"prompt": prompt} if prompt else {}
        vectors = encode_role(texts, batch_size=32, convert_to_tensor=True, normalize_embeddings=True, **own)
        return TokenVectors.from_padded(vectors.float().cpu().unsqueeze(1))

    return Encoders(
        partial(encode, encode_role=opened.encode_query, prompt=query_prompt),
        partial(encode, encode_role=opened.encode_document, prompt=document_prompt),
    )


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
    """Let the student's vectors have the teacher's size, by a linear layer that is trained too, and its norm."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    own, size = (model.get_embedding_dimension() or 0 for model in (student, teacher))
    if own != size:
        student.append(Dense(own, size, activation_function=torch.nn.Identity()))
    normalised = [any(isinstance(module, Normalize) for module in model) for model in (student, teacher)]
    if normalised == [False, True]:
        student.append(Normalize())


def _texts(pairs: Dataset, language: str) -> list[str]:
    if not len(pairs) or language not in pairs[0].get("translation", ()):
        raise DataError(f"pairs must have texts in {language!r}; pass what load_bitext returned, with its languages")
    return [pair[language] for pair in pairs["translation"]]
