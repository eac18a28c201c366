"""The packs of a run: their new words, and the adapters that are trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from datasets import Dataset
from peft import LoraConfig
from transformers import set_seed

from ..bitext.entries import Entries
from ..bitext.frequency import count_known
from ..checks import check_choice
from ..languages import (
    LanguagePack,
    Vocabulary,
    activate,
    add_adapter,
    add_counts,
    count_words,
    default_lora_config,
    extend_processor,
    learn_from_text,
    learn_vocabulary,
    make_trainable,
    remove,
)
from ..methods import Method
from ..model import OpticalModel, OpticalProcessor
from ..model.added_words import REPLACING, WORD_RULES
from .config import OTDistillationConfig
from .distributed import from_main_process
from .misaligned import aligned_pairs
from .relatives import share_words, start_from
from .word_choice import WordChoice, choose_words


logger = logging.getLogger(__name__)

# Default strength of a pack whose base finds most translations by itself.
STRENGTH_IF_READ = 0.5
# Words that pairs show more rarely have no row of their own, see `learn_vocabulary`.
MIN_COUNT = 2


class _Words(NamedTuple):
    """The new words of a pack, the processor that reads them, and whether the base reads the language without."""

    vocabulary: Vocabulary
    processor: OpticalProcessor
    base_reads: bool


@dataclass(frozen=True)
class PackMaker:
    """
    Adds the packs to train to the student.

    Args:
        args ([`OTDistillationConfig`]): the settings.
        model ([`OpticalModel`]), processor ([`OpticalProcessor`]): the student.
        teacher ([`OpticalModel`]), teacher_processor ([`OpticalProcessor`]): the teacher.
        entries (`dict[str, Entries]`): language -> entries of dictionaries.
        texts (mapping of `str` to sequence of `str`): language -> plain text in it.
        relative ([`LanguagePack`], *optional*): the pack to start from.
        peft_config (`peft.LoraConfig`, *optional*): the adapter, in place of the one that `args` describes.
    """

    args: OTDistillationConfig
    model: OpticalModel
    processor: OpticalProcessor
    teacher: OpticalModel
    teacher_processor: OpticalProcessor
    entries: Mapping[str, Entries]
    texts: Mapping[str, Sequence[str]]
    relative: LanguagePack | None
    peft_config: LoraConfig | None

    def add(self, pairs: Mapping[str, Dataset]) -> tuple[dict[str, OpticalProcessor], dict[str, float]]:
        """
        Learn the words of each pack, from sentence pairs and whatever else there is, and add its adapter.

        Returns:
            `tuple`: language -> the processor with the new words of its pack, and pack -> its strength after training.
        """
        args = self.args
        config = self.peft_config if self.relative is None else self.relative.lora_config
        is_dora = config is not None and config.use_dora
        if is_dora:
            reason = "since an adapter with DoRA cannot be applied in part"
            check_choice("strength", args.strength, [None, 1.0], reason)
        processors = dict.fromkeys(args.languages, self.processor)
        strengths = {}
        for pack, members in args.packs.items():
            # The initial weights of a pack must not depend on the other packs.
            set_seed(args.seed)
            words = self._learn_words(pack, members, pairs, args.new_words) if args.new_words else None
            if words is not None:
                processors |= dict.fromkeys(members, words.processor)
            in_part = words is not None and words.base_reads and not is_dora
            by_default = STRENGTH_IF_READ if in_part else 1.0
            strengths[pack] = by_default if args.strength is None else args.strength
            self._add_adapter(pack, None if words is None else words.vocabulary)
        if args.packs:
            make_trainable(self.model, list(args.packs))
        return processors, strengths

    def add_without_misaligned(
        self, methods: list[Method], pairs: dict[str, Dataset]
    ) -> tuple[dict[str, OpticalProcessor], dict[str, float], dict[str, Dataset]]:
        """As [`~PackMaker.add`], but without misaligned pairs; also return the pairs that remain."""
        added = self.add(pairs)
        # New words tell which pairs are misaligned. If some are, the words are learned again without these.
        kept = aligned_pairs(self.args, methods, pairs, self.model, added[0], self.teacher, self.teacher_processor)
        if kept:
            pairs = pairs | kept
            for pack in self.args.packs:
                remove(self.model, pack)
            added = self.add(pairs)
        return (*added, pairs)

    def _learn_words(self, pack: str, members: list[str], pairs: Mapping[str, Dataset], most: int) -> _Words:
        args, model, processor = self.args, self.model, self.processor
        if not pairs and not self.entries:
            reason = "since words are learned from train_dataset or a dictionary; pass one"
            check_choice("new_words", most, [0], reason)
        own = _pairs_of_pack(pairs, pack, members, args.teacher_language) if pairs else None
        vocabulary, base_reads = self._choose_words(pack, members, own, most)
        vocabulary.rules = WORD_RULES if base_reads else REPLACING
        if self.entries and not vocabulary.tokens:
            logger.warning("The base knows every word of %s already; no words are added.", pack)
        known = None if own is None else count_words(processor, own, pack, args.teacher_language)
        counts = known["language"] if known else {}
        frequent = {word for word, count in counts.items() if count >= MIN_COUNT}
        if texts := [text for language in members for text in self.texts.get(language, ())]:
            if args.rows_from_text:
                without_row = [*frequent, *(known["translations"] if known else ())]
                vocabulary = learn_from_text(
                    *(model, processor, vocabulary, texts, without_row), max_words=most, seed=args.seed
                )
            known = add_counts(known, count_known(processor, texts))
        if self.relative is not None and vocabulary.tokens:
            vocabulary = share_words(vocabulary, self.relative, processor.tokenizer, frequent, most)
        extended = extend_processor(processor, vocabulary.tokens, vocabulary.rules, known)
        return _Words(vocabulary, extended, base_reads)

    def _choose_words(self, pack: str, members: list[str], pairs: Dataset | None, most: int) -> WordChoice:
        """Learn the new words of a pack if the base needs them; one process finds that out for all."""
        args, device = self.args, self.args.device
        learn = partial(
            learn_vocabulary,
            self.model,
            self.processor,
            language=pack,
            teacher_language=args.teacher_language,
            entries=[entry for language in members for entry in self.entries.get(language, ())],
            max_words=most,
        )
        if pairs is None or not args.choose_words:
            return WordChoice(learn(pairs), base_reads=False)

        def choose() -> WordChoice:
            activate(self.model, None)
            return choose_words(
                *(self.model.to(device), self.processor, pairs, learn),
                *(self.teacher.to(device), self.teacher_processor, pack, args.teacher_language),
                show_progress=not args.disable_tqdm,
            )

        return from_main_process(choose)

    def _add_adapter(self, pack: str, vocabulary: Vocabulary | None) -> None:
        args = self.args
        if self.relative is not None:
            start_from(self.relative, self.model, pack, vocabulary)
            return
        config = self.peft_config or default_lora_config(
            self.model,
            rank=args.lora_rank,
            alpha=args.lora_alpha,
            dropout=args.lora_dropout,
            targets=args.lora_targets,
            # A base that needs no new words needs no other embeddings either.
            embeddings=args.lora_embeddings and vocabulary is None,
        )
        add_adapter(self.model, pack, config, vocabulary)


def _pairs_of_pack(pairs: Mapping[str, Dataset], pack: str, members: list[str], teacher_language: str) -> Dataset:
    """Merge the sentence pairs of all languages in a pack into one language, under the code of the pack."""
    if members == [pack]:
        return pairs[pack]
    texts = [
        {pack: translation[language], teacher_language: translation[teacher_language]}
        for language in members
        for translation in pairs[language]["translation"]
    ]
    return Dataset.from_dict({"translation": texts})
