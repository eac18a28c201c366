"""The external peer: sentence-transformers' own recipe for another language, run through that library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

from ..errors import DataError
from ..retrieval.search import Hit, search
from ..storage.fetching import local_folder


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# Documents, a vector each, that are scored at a time.
_BLOCK = 16_384


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
    Multilingual knowledge distillation (Reimers & Gurevych 2020, arXiv 2004.09813) as sentence-transformers does it.

    The mean squared error draws the student's vector of a sentence, and that of its translation, to the teacher's
    vector of the sentence: `SentenceTransformerTrainer` with `MSELoss`, all weights trained. The defaults are those of
    that library's example.

    Args:
        student (`str`, `os.PathLike` or `SentenceTransformer`):
            The model to be trained: a folder, a Hub id or a model, which is changed. A folder of this library opens
            too, pooled by the mean of its tokens, so that the peer can be given the same new words. It normalises its
            vectors if the teacher does.
        teacher (`str`, `os.PathLike` or `SentenceTransformer`):
            The model that reads `teacher_language`.
        pairs (`datasets.Dataset`):
            Sentence pairs, as [`~hf_optical.bitext.load_bitext`] reads them.
        language (`str`):
            Language that the student learns.
        output_dir (`str` or `os.PathLike`):
            Where the trained model is saved.
        teacher_language (`str`, defaults to `"en"`):
            Language of the teacher.
        epochs (`float`, defaults to 5), batch_size (`int`, defaults to 64), learning_rate (`float`, defaults to 2e-5),
        seed (`int`, defaults to 42), bf16 (`bool`, defaults to `False`):
            As in `SentenceTransformerTrainingArguments`.
        encode_batch_size (`int`, defaults to 128):
            Sentences that the teacher reads at a time.
        training_arguments (*optional*):
            Any other field of `SentenceTransformerTrainingArguments`, such as `max_steps` or `use_cpu`.

    Returns:
        `SentenceTransformer`: the trained student.

    Raises:
        DataError: there are no pairs, or they lack a language.
        ImportError: sentence-transformers is missing.
        ValueError: the vectors of student and teacher differ in length.
    """
    library = _sentence_transformers()
    from sentence_transformers.sentence_transformer.losses import MSELoss

    english, translations = (_texts(pairs, code) for code in (teacher_language, language))
    student, teacher = open_dense(student), open_dense(teacher)
    _match(student, teacher)
    labels = teacher.encode(english, batch_size=encode_batch_size)
    trainer = library.SentenceTransformerTrainer(
        model=student,
        args=library.SentenceTransformerTrainingArguments(
            **{
                "output_dir": os.fspath(output_dir),
                "num_train_epochs": epochs,
                "per_device_train_batch_size": batch_size,
                "learning_rate": learning_rate,
                # A share of all steps.
                "warmup_steps": 0.1,
                "seed": seed,
                "bf16": bf16,
                "save_strategy": "no",
                "report_to": "none",
                **training_arguments,
            }
        ),
        train_dataset=Dataset.from_dict({"english": english, "non_english": translations, "label": labels}),
        loss=MSELoss(student),
    )
    trainer.train()
    student.save_pretrained(os.fspath(output_dir))
    return student.eval()


def dense_search(
    model: SentenceTransformer,
    teacher: SentenceTransformer,
    queries: Sequence[str],
    documents: Sequence[str],
    document_ids: Sequence[str],
    top_k: int = 1000,
    *,
    batch_size: int = 128,
) -> list[list[Hit]]:
    """
    Finds the documents of highest cosine, exactly: every document is scored.

    The teacher encodes the documents, as it did when the English index was made, and the model the queries.

    Args:
        model (`SentenceTransformer`): the trained peer; the teacher itself for the zero-shot or the ceiling.
        teacher (`SentenceTransformer`): the model of the documents.
        queries (sequence of `str`): texts to look for.
        documents (sequence of `str`): texts to look in.
        document_ids (sequence of `str`): name of each document.
        top_k (`int`, defaults to 1000): length of the rankings, or all documents if there are fewer.
        batch_size (`int`, defaults to 128): texts that are encoded at a time.

    Returns:
        `list[list[Hit]]`: for each query its hits, best first, scored from -1 to 1; of equal ones the earlier
        document first.

    Raises:
        ValueError: there are no queries or no documents, the number of ids is not that of documents, or `top_k` is
            below 1.
    """
    for name, texts in (("queries", queries), ("documents", documents)):
        if not len(texts):
            raise ValueError(f"{name} is empty; there is nothing to search")
    asked, kept = (dense_vectors(*side, batch_size=batch_size) for side in ((model, queries), (teacher, documents)))
    return search(asked, kept.to(asked.device), top_k, document_ids=list(document_ids), block_tokens=_BLOCK)


def dense_vectors(model: SentenceTransformer, texts: Sequence[str], *, batch_size: int = 32) -> Tensor:
    """Unit vectors of shape `(texts, 1, dim)`: with one vector a text, MaxSim is the cosine."""
    found = model.encode(list(texts), batch_size=batch_size, convert_to_tensor=True, normalize_embeddings=True)
    return found.float().unsqueeze(1)


def open_dense(
    model: str | os.PathLike | SentenceTransformer, device: str | torch.device | None = None
) -> SentenceTransformer:
    """A sentence encoder, opened if it is given by name; raises `ImportError` without sentence-transformers."""
    if isinstance(model, (str, os.PathLike)):
        return _sentence_transformers().SentenceTransformer(
            str(local_folder(model)), device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    return model


def _sentence_transformers() -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise ImportError('the peer needs sentence-transformers; pip install "hf_optical[rivals]"') from error
    return sentence_transformers


def _match(student: SentenceTransformer, teacher: SentenceTransformer) -> None:
    """Makes sure that the student can say what the teacher says."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    sizes = [model.get_embedding_dimension() for model in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"student has vectors of {sizes[0]} and teacher of {sizes[1]} numbers; choose two models of one size"
        )
    normalised = [any(isinstance(module, Normalize) for module in model) for model in (student, teacher)]
    if normalised == [False, True]:
        student.append(Normalize())


def _texts(pairs: Dataset, language: str) -> list[str]:
    if not len(pairs):
        raise DataError("pairs is empty; the peer needs sentence pairs")
    if "translation" not in pairs.column_names or language not in pairs[0]["translation"]:
        raise DataError(
            f"pairs hold no text in {language!r}; pass what load_bitext reads, and the language codes of that"
        )
    return [pair[language] for pair in pairs["translation"]]
