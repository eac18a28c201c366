"""The transport loss for the trainer of sentence-transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checks import check_choice
from ..losses import OTAlignmentLoss
from ..methods import OptimalTransport
from ..model.special_tokens import words_mask
from ..transport import Solver


if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator

# The task of the teacher's column, by which `forward` recognises the collator of this loss.
_TEACHER = "teacher"
_DIAGNOSIS = (
    "expected two columns, the student's sentence and its translation for the teacher, got {found}. Give the dataset "
    "these two columns in this order, and the trainer data_collator=loss.data_collator('NAME_OF_THE_SECOND')"
)


class MultiVectorOTAlignmentLoss(nn.Module):
    """
    Teach a `MultiVectorEncoder` of sentence-transformers a new language from sentence pairs, in its own trainer.

    The student reads the new language and a frozen teacher the English. The loss is the cost of transporting the
    student's token vectors onto the teacher's ([`OTAlignmentLoss`]; OPTICAL-style, arXiv 2301.12566).

    Both sides are encoded as queries, each with the prompt, length and query expansion of its model. So the student's
    queries move to where the teacher's English queries are, among the documents of an existing index. The tokenizers
    may differ: [`~MultiVectorOTAlignmentLoss.data_collator`] tokenises the second column for the teacher.

    Args:
        model (`MultiVectorEncoder`): The student.
        teacher (`MultiVectorEncoder`):
            The teacher, which reads the English and is frozen. If it is the student itself, it is copied. Its vectors
            must have the student's size; its tokenizer may differ.
        solver (`str` or [`~transport.Solver`], *optional*, defaults to `"sinkhorn"`):
            A solver or its name, see [`~transport.transport_plan`].
        align_special_tokens (`bool`, *optional*, defaults to `False`):
            Whether special tokens, query expansion and role markers are aligned too.
        student_weights (`torch.Tensor` of shape `(vocabulary,)`, *optional*), teacher_weights (likewise):
            Weights of the token ids of student and teacher, from [`inverse_document_frequency`]. Equal by default.
        options: with the name of a solver, its options, as in [`~transport.make_solver`].

    Raises:
        TypeError: if `model` or `teacher` is not a `MultiVectorEncoder`.
        ValueError: if the vectors differ in size, or an option is out of its range. When called, if there are not two
            columns in this order, or the second was not tokenised for the teacher.

    References:
        - Improving Cross-lingual Information Retrieval on Low-Resource Languages via Optimal Transport
          Distillation: https://huggingface.co/papers/2301.12566

    Requirements:
        1. (sentence, translation) pairs, in this order
        2. `data_collator=loss.data_collator("NAME_OF_THE_TRANSLATION")` given to the trainer

    Inputs:
        Pairs of a sentence in the new language and its translation, without labels.

    Recommendations:
        - Open the student without dropout, as below, since its targets are exact.
        - Weigh the tokens by `inverse_document_frequency(model, sentences)`, as [`OTDistillationTrainer`] does.
        - If the student's tokenizer splits the new language into many pieces, start from a merged language pack
          (`retriever.merge(language)`), which has learned its words.

    Relations:
        - [`OTDistillationTrainer`] has the same loss, and in addition adapters, new words, a cache of the teacher's
          vectors, and retrieval evaluation.
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
        solver: str | Solver = "sinkhorn",
        align_special_tokens: bool = False,
        student_weights: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        _check_models(model, teacher)
        self.model = model
        self.teacher = (copy.deepcopy(teacher) if teacher is model else teacher).eval().requires_grad_(False)
        self.transport = OTAlignmentLoss(solver, **options)
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
        Make the data collator for the trainer.

        It tokenises `teacher_column` for the teacher, as queries, and every other column for the student, with the
        student's prompt for the task of the column.

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
        """Encode a column: vectors `(batch, tokens, dim)`, the mask of the aligned ones, and their weights."""
        output = reader(features, task="query")
        ids, mask = output["input_ids"], output["attention_mask"].bool()
        if not self.align_special_tokens:
            mask = words_mask(ids, mask, getattr(self, f"{side}_special"))
        weights = getattr(self, f"{side}_weights")
        return output["token_embeddings"], mask, None if weights is None else weights[ids]

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher,
            "solver": type(self.transport.solver).__name__.lower(),
            **asdict(self.transport.solver),
            "align_special_tokens": self.align_special_tokens,
            "student_weights": self.student_weights is not None,
            "teacher_weights": self.teacher_weights is not None,
        }

    @property
    def citation(self) -> str:
        return OptimalTransport.citations[0]


def _check_models(model: Any, teacher: Any) -> None:
    from sentence_transformers import MultiVectorEncoder

    for name, given in (("model", model), ("teacher", teacher)):
        if not isinstance(given, MultiVectorEncoder):
            raise TypeError(f"{name} must be a sentence_transformers.MultiVectorEncoder, got {type(given).__name__}")
    cure = "choose another teacher, or give the student a Dense module"
    size = teacher.get_embedding_dimension()
    check_choice("the vector size of the teacher", size, [model.get_embedding_dimension()], cure)


def _preprocess(
    student: MultiVectorEncoder,
    teacher: MultiVectorEncoder,
    texts: list[str],
    prompt: str | None = None,
    task: Any = None,
    **options: Any,
) -> dict[str, Any]:
    reader, task = (teacher, "query") if task == _TEACHER else (student, task)
    prompt = reader.prompts.get(task) if prompt is None else prompt
    return reader.preprocess(texts, prompt=prompt, task=task, **options)


def _special_ids(reader: MultiVectorEncoder) -> Tensor:
    """Return the ids of special tokens and markers, shape `(ids,)`; the unknown token counts as a word."""
    tokenizer = reader.tokenizer
    prompts = [prompt for prompt in reader.prompts.values() if prompt]
    # The words of a prompt are not markers.
    markers = {token for ids in (tokenizer(prompts)["input_ids"] if prompts else ()) for token in ids}
    markers &= set(tokenizer.added_tokens_encoder.values())
    return torch.tensor(sorted({*tokenizer.all_special_ids, *markers} - {tokenizer.unk_token_id}))
