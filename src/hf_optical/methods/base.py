"""The interface of a training method, and what passes between it, the collator and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from datasets import Dataset
from torch import Tensor

from ..bitext.entries import Entries
from ..bitext.loading import iter_sentences
from ..checks import check_choice
from ..model import OpticalModel, OpticalOutput, OpticalProcessor
from ..model.special_tokens import special_ids, words_mask
from ..options import option


# What `OpticalModel.forward` takes.
Inputs = dict[str, Tensor]
ROLES = {"query": ("query",), "document": ("document",), "both": ("query", "document")}


@dataclass
class Blocks:
    """
    Tokenised texts of a batch, by the names of their blocks.

    Args:
        student (`dict[str, dict]`): block -> the inputs that the student reads; all blocks go through one forward.
        teacher (`dict[str, dict]`): block -> the inputs that the teacher reads.
        targets (`dict[str, Tensor]`): anything else that a loss needs, by name.
    """

    student: dict[str, Inputs] = field(default_factory=dict)
    teacher: dict[str, Inputs] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)


# Rows of a dataset -> blocks. Sent to the workers of a data loader, so it holds no model.
Reader = Callable[[Sequence[dict[str, Any]]], Blocks]


@dataclass
class LanguageData:
    """
    Data of a language that a method gets before training.

    Args:
        language (`str`), teacher_language (`str`): keys of the `translation` feature.
        pairs (`datasets.Dataset`, *optional*): the sentence pairs to train on.
        student ([`OpticalProcessor`]): tokenises for the student and knows the new words of the pack.
        base ([`OpticalProcessor`]): tokenises for the student without its pack.
        teacher ([`OpticalProcessor`]): tokenises for the teacher.
        entries (`list[tuple[str, str]]`, *optional*): entries of dictionaries, from [`read_entries`].
    """

    language: str
    teacher_language: str
    pairs: Dataset | None
    student: OpticalProcessor
    base: OpticalProcessor
    teacher: OpticalProcessor
    entries: Entries | None = None


@dataclass(eq=False)
class Reading:
    """
    The token vectors of one batch.

    Attributes:
        language (`str`): the language of the batch.
        student (`dict[str, OpticalOutput]`): block -> the student's vectors.
        inputs (`dict[str, dict]`), teacher_inputs (`dict[str, dict]`): block -> what student and teacher read.
        targets (`dict[str, Tensor]`): as in [`Blocks`].
    """

    language: str
    student: dict[str, OpticalOutput]
    inputs: dict[str, Inputs]
    teacher_inputs: dict[str, Inputs]
    targets: dict[str, Tensor]
    _teacher: Callable[[Inputs], OpticalOutput]
    _read: dict[str, OpticalOutput] = field(default_factory=dict)

    def teacher(self, block: str) -> OpticalOutput:
        """The teacher's vectors of a block, without gradient. Computed when first asked for."""
        if block not in self._read:
            self._read[block] = self._teacher(self.teacher_inputs[block])
        return self._read[block]


class Run(Protocol):
    """Services that the trainer offers to a method."""

    def pair_losses(self, student: OpticalOutput, teacher: OpticalOutput) -> dict[str, Tensor]: ...

    def record(self, **values: Tensor) -> None:
        """Log the mean of values of shape `(pairs,)`."""


@dataclass(repr=False)
class PairSettings:
    """How sentence pairs are read; settings of every method that reads them."""

    side: str = option("query", "Role in which sentences are encoded.", ROLES)
    align_special_tokens: bool = option(False, "Whether to align special tokens too.")

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles in which every sentence is read."""
        return ROLES[self.side]

    def check_settings(self) -> None:
        check_choice("side", self.side, ROLES)


class Method:
    """
    Base class of the training methods.

    By default a method reads the sentence pairs: the student the new language, the teacher its translation, in the
    block `"pairs"`. A subclass has to implement [`~Method.losses`] only.

    Class attributes:
        name (`str`): a class with a name is registered under it, for `OTDistillationConfig(method=...)`.
        blocks (`tuple[str, ...]`): the blocks that the student reads for it.
        card_settings (`tuple[str, ...]`): the settings that belong on a card.
        description (`str`): a clause for the card, such as "the frozen teacher reads the {teacher_language} sentence,
            the student its translation; the loss is ...".
        tags (`tuple[str, ...]`), citations (`tuple[str, ...]`): tags of the card, BibTeX entries.
        uses_labels (`bool`): whether relevance labels may take part.

    Args:
        settings: an object with the fields of the settings, usually the [`OTDistillationConfig`].
    """

    name: ClassVar[str] = ""
    blocks: tuple[str, ...] = ("pairs",)
    card_settings: ClassVar[tuple[str, ...]] = ("side", "align_special_tokens")
    description: ClassVar[str] = ""
    tags: ClassVar[tuple[str, ...]] = ()
    citations: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[bool] = False

    registered: ClassVar[dict[str, type[Method]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            Method.registered[cls.name] = cls

    def __init__(self, settings: Any):
        self.settings = settings

    def start(self, student: OpticalModel) -> None:
        """Look at the student before packs are added to it."""

    def see_teacher(self, language: str, sentences: Sequence[Tensor]) -> None:
        """
        Look at the teacher's vectors of some translations of a language's sentences, before training.

        `sentences` are token vectors of shape `(tokens, dim)`.
        """

    def reader(self, data: LanguageData) -> Reader:
        """Make what tokenises the rows of a language."""
        return PairReader(data, self.settings.roles, self.settings.align_special_tokens)

    def teacher_texts(self, texts: Dataset, teacher_language: str) -> dict[str, list[str]]:
        """Role -> the texts that the teacher reads in it, for the cache of its vectors."""
        return {role: list(iter_sentences(texts, teacher_language)) for role in self.settings.roles}

    def losses(self, read: Reading, run: Run) -> dict[str, Tensor]:
        """
        Compute the parts of the loss from vectors of student and teacher; the trainer adds and logs them.

        Returns:
            `dict[str, Tensor]`: name -> losses of shape `(roles * pairs,)`, one role after the other.
        """
        raise NotImplementedError

    def used_settings(self) -> dict[str, Any]:
        """The settings in use, for the card."""
        return {name: getattr(self.settings, name) for name in self.card_settings}

    @classmethod
    def describe(cls, settings: dict[str, Any], **names: str) -> str:
        """The clause for the card of a run with these settings; `names` are the blanks of `description`."""
        return cls.description.format(**names)


@dataclass
class PairReader:
    """Rows of sentence pairs -> the block `"pairs"`, in each of several roles one after the other."""

    data: LanguageData
    roles: tuple[str, ...]
    align_special_tokens: bool

    def __post_init__(self) -> None:
        # Workers of a data loader need the processors alone.
        self.data = LanguageData(**{**vars(self.data), "pairs": None, "entries": None})
        self.as_written = self.data.student.as_written()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Blocks:
        new, english = (
            [row["translation"][language] for row in rows]
            for language in (self.data.language, self.data.teacher_language)
        )
        return Blocks(
            student={"pairs": self.tokenize_new(rows, new)},
            teacher={"pairs": self.tokenize(self.data.teacher, english)},
        )

    def tokenize_new(self, rows: Sequence[dict[str, Any]], texts: list[str]) -> Inputs:
        """Tokenise the texts of rows for the student, one of each, as [`~PairReader.tokenize`] does."""
        processor = self.data.student
        switched = [bool(row.get("switched")) for row in rows]
        if not any(switched):
            return self.tokenize(processor, texts)
        # English words that stay must not be read as similar words of the new language.
        order = sorted(range(len(rows)), key=switched.__getitem__)
        own = [texts[row] for row in order if not switched[row]]
        others = [texts[row] for row in order if switched[row]]
        readers = [(read, part) for read, part in ((processor, own), (self.as_written, others)) if part]
        batch = self._stack([read(part, role) for role in self.roles for read, part in readers], processor)
        places = torch.tensor(order).argsort()
        rows_of_roles = torch.cat([places + role * len(rows) for role in range(len(self.roles))])
        return {name: values[rows_of_roles] for name, values in batch.items()}

    def tokenize(self, processor: OpticalProcessor, texts: list[str]) -> Inputs:
        """Tokenise texts in every role; the `token_mask` leaves what is aligned."""
        return self._stack([processor(texts, role) for role in self.roles], processor)

    def _stack(self, batches: list[Inputs], processor: OpticalProcessor) -> Inputs:
        batch = processor.pad(batches)
        if not self.align_special_tokens:
            batch["token_mask"] = words_mask(batch["input_ids"], batch["token_mask"], special_ids(processor))
        return batch
