"""The transport loss for the trainer of sentence-transformers, in place of the trainer of this library."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..hub.methods import METHODS
from ..losses import OTAlignmentLoss


if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator

# The task of the column that the teacher reads; it is stamped on what the collator of this loss makes of it.
_TEACHER = "teacher"
_DIAGNOSIS = (
    "expected two columns, first the sentence that the student reads, then its translation that the teacher reads, "
    "and found {found}. Give the dataset these two columns in this order, and the trainer "
    "data_collator=loss.data_collator('NAME_OF_THE_SECOND')"
)


class MultiVectorOTAlignmentLoss(nn.Module):
    """
    Teaches a `MultiVectorEncoder` of sentence-transformers a new language from sentence pairs, in its own trainer: the
    student reads the new language, a frozen teacher the English, and the loss is the cost of transporting the
    student's token vectors onto the teacher's ([`OTAlignmentLoss`]; OPTICAL-style, arXiv 2301.12566).

    Both sides are read as queries: with the prompt, length and query expansion that each model has for them. So the
    student's queries come to lie where the teacher's English queries lie, among the documents of an index that exists.
    The tokenizers may differ: the second column is cut into tokens by the teacher itself, which is what
    [`~MultiVectorOTAlignmentLoss.data_collator`] is for.

    Args:
        model (`MultiVectorEncoder`):
            The student.
        teacher (`MultiVectorEncoder`):
            What reads the English. It is frozen; the student itself is copied first. Its vectors must be of the
            student's size, its tokenizer need not be the student's.
        solver (`str`, *optional*, defaults to `"sinkhorn"`), epsilon (`float`, *optional*, defaults to 0.01),
            max_iterations (`int`, *optional*, defaults to 100), tolerance (`float`, *optional*, defaults to 1e-3),
            marginal_penalty (`float`, *optional*, defaults to 1.0), transported_mass (`float`, *optional*, defaults
            to 0.8):
            The transport problem, as in [`OTAlignmentLoss`]; the defaults are those of [`OTDistillationConfig`].
        align_special_tokens (`bool`, *optional*, defaults to `False`):
            Whether special tokens, query expansion and markers that are tokens of their own are aligned too.
        student_weights (`torch.Tensor` of shape `(vocabulary,)`, *optional*), teacher_weights (likewise):
            What each token id of student and teacher counts for, from [`inverse_document_frequency`]. Alike by
            default.

    Raises:
        TypeError: `model` or `teacher` is no `MultiVectorEncoder`.
        ValueError: the vectors are of different sizes, or an option is out of its range. When called: the columns are
            not two, or not in order; or the second was not cut into tokens by the teacher.

    References:
        - Improving Cross-lingual Information Retrieval on Low-Resource Languages via Optimal Transport Distillation:
          https://huggingface.co/papers/2301.12566

    Requirements:
        1. (sentence, translation) pairs, in this order
        2. `data_collator=loss.data_collator("NAME_OF_THE_TRANSLATION")` given to the trainer

    Inputs:
        +---------------------------------------------------+--------+
        | Inputs                                            | Labels |
        +===================================================+========+
        | (sentence in the new language, translation) pairs | none   |
        +---------------------------------------------------+--------+

    Recommendations:
        - Open the student without dropout, as below: the teacher's vectors are to be met exactly.
        - Weigh the tokens by `inverse_document_frequency(model, sentences)`, as [`OTDistillationTrainer`] does.
        - Where the student's tokenizer splits the new language into many pieces, begin with a student that has learned
          its words: a language pack, merged (`retriever.merge(language)`).

    Relations:
        - [`OTDistillationTrainer`] has the same loss, and beside it adapters, new words, a cache of the teacher's
          vectors, and search as evaluation.
        - `MSELoss` of sentence-transformers does this with one vector a sentence, without aligning words.
        - `MultiVectorDistillKLDivLoss` learns from a teacher's scores of documents instead of from translations. Both
          can train one student: a dictionary of datasets, and a dictionary of losses.

    Example:

    ```python
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer
    from hf_optical.training import MultiVectorOTAlignmentLoss

    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MultiVectorEncoder("lightonai/colbertv2.0", config_kwargs=no_dropout)
    teacher = MultiVectorEncoder("lightonai/colbertv2.0")
    train_dataset = Dataset.from_dict({
        "sw": ["Maji yako sokoni.", "Mtoto anakunywa maji."],
        "en": ["The water is in the market.", "The child drinks water."],
    })
    loss = MultiVectorOTAlignmentLoss(model, teacher)
    trainer = MultiVectorEncoderTrainer(
        model=model, train_dataset=train_dataset, loss=loss, data_collator=loss.data_collator("en")
    )
    trainer.train()
    ```
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        teacher: MultiVectorEncoder,
        *,
        solver: str = "sinkhorn",
        epsilon: float = 0.01,
        max_iterations: int = 100,
        tolerance: float = 1e-3,
        marginal_penalty: float = 1.0,
        transported_mass: float = 0.8,
        align_special_tokens: bool = False,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_models(model, teacher)
        self.model = model
        self.teacher = (copy.deepcopy(teacher) if teacher is model else teacher).eval().requires_grad_(False)
        self.transport = OTAlignmentLoss(
            solver, epsilon, max_iterations, tolerance, marginal_penalty, transported_mass
        )
        self.align_special_tokens = align_special_tokens
        for side, reader, weights in (("student", model, student_weights), ("teacher", teacher, teacher_weights)):
            self.register_buffer(f"{side}_weights", weights, persistent=False)
            self.register_buffer(f"{side}_special", _special_ids(reader), persistent=False)

    def train(self, mode: bool = True) -> MultiVectorOTAlignmentLoss:
        super().train(mode)
        self.teacher.eval()
        return self

    def data_collator(self, teacher_column: str, **options: Any) -> MultiVectorEncoderDataCollator:
        """
        What makes batches of sentence pairs. The column `teacher_column` is cut into tokens by the teacher, as
        queries; every other column by the student, as its trainer does it but with the prompt that the student has for
        the column's task, so that it is trained on what it will read.

        Args:
            teacher_column (`str`): name of the dataset's second column.
            options: those of `MultiVectorEncoderDataCollator`, such as `max_length`; a prompt in `prompts` takes
                precedence.
        """
        from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator

        tasks = {**options.pop("router_mapping", {}), teacher_column: _TEACHER}
        preprocess = partial(_preprocess, self.model, self.teacher)
        return MultiVectorEncoderDataCollator(preprocess, router_mapping=tasks, **options)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        features = [dict(column) for column in sentence_features]
        tasks = [column.pop("task", None) for column in features]
        if tasks != ["query", _TEACHER]:
            found = ", ".join(f"one read as {task!r}" for task in tasks)
            raise ValueError(f"{type(self).__name__}: {_DIAGNOSIS.format(found=found or 'none')}")
        student, student_mask, student_weights = self._read("student", self.model, features[0])
        with torch.no_grad():
            teacher, teacher_mask, teacher_weights = self._read("teacher", self.teacher, features[1])
        return self.transport(student, teacher, student_mask, teacher_mask, student_weights, teacher_weights)

    def _read(self, side: str, reader: nn.Module, features: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors of a column, `(batch, tokens, dim)`; which of them are aligned and what they count for."""
        output = reader(features, task="query")
        ids, mask = output["input_ids"], output["attention_mask"].bool()
        if not self.align_special_tokens:
            words = mask & ~torch.isin(ids, getattr(self, f"{side}_special"))
            # An empty sentence keeps its special tokens: transport needs some mass.
            mask = torch.where(words.any(1, keepdim=True), words, mask)
        weights = getattr(self, f"{side}_weights")
        return output["token_embeddings"], mask, None if weights is None else weights[ids]

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher,
            **self.transport.options,
            "align_special_tokens": self.align_special_tokens,
            "student_weights": self.student_weights is not None,
            "teacher_weights": self.teacher_weights is not None,
        }

    @property
    def citation(self) -> str:
        return METHODS["ot"].citations[0]


def _check_models(model: Any, teacher: Any) -> None:
    from sentence_transformers import MultiVectorEncoder

    for name, given in (("model", model), ("teacher", teacher)):
        if not isinstance(given, MultiVectorEncoder):
            raise TypeError(
                f"{name} is a {type(given).__name__}; open its folder or Hub id by "
                "sentence_transformers.MultiVectorEncoder"
            )
    sizes = model.get_embedding_dimension(), teacher.get_embedding_dimension()
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the teacher's vectors have {sizes[1]} numbers and the student's {sizes[0]}; choose a teacher of the "
            "student's size, or give the student a Dense module to the teacher's"
        )


def _preprocess(
    student: MultiVectorEncoder,
    teacher: MultiVectorEncoder,
    texts: list[str],
    prompt: str | None = None,
    task: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    reader, task = (teacher, "query") if task == _TEACHER else (student, task)
    prompt = reader.prompts.get(task) if prompt is None else prompt
    return reader.preprocess(texts, prompt=prompt, task=task, **options)


def _special_ids(reader: MultiVectorEncoder) -> Tensor:
    """Ids of special tokens and markers, of shape `(ids,)`; the unknown token is a word and not among them."""
    tokenizer = reader.tokenizer
    prompts = [prompt for prompt in reader.prompts.values() if prompt]
    # Of a prompt in words, the words are none.
    markers = {token for ids in (tokenizer(prompts)["input_ids"] if prompts else ()) for token in ids}
    markers &= set(tokenizer.added_tokens_encoder.values())
    return torch.tensor(sorted({*tokenizer.all_special_ids, *markers} - {tokenizer.unk_token_id}))
