"""The pack of a related language as the start of a run: its adapter, and its rows of words that are spelt alike."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

import torch
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase

from ..checks import check_choice
from ..languages import LanguagePack, Vocabulary
from ..model import OpticalModel
from ..storage.fetching import public_name
from .config import OTDistillationConfig


logger = logging.getLogger(__name__)


def open_relative(args: OTDistillationConfig, peft_config: LoraConfig | None) -> LanguagePack | None:
    """
    Open the pack that `args.init_pack` names, if any.

    Raises:
        OSError: there is no such pack, or it is damaged.
        ValueError: its adapter changes the word embeddings, which new words do not allow, or another is asked for.
    """
    if args.init_pack is None:
        return None
    check_choice("peft_config", peft_config, [None], "since the adapter is that of init_pack")
    relative = LanguagePack.from_pretrained(args.init_pack)
    if args.new_words and any("lora_embedding" in name for name in relative.weights):
        raise ValueError(
            f"init_pack must leave the word embeddings as they are if new words are added, but {args.init_pack} "
            "adapts them; pass new_words=0, or a pack with new words"
        )
    return relative


def share_words(
    vocabulary: Vocabulary,
    relative: LanguagePack,
    tokenizer: PreTrainedTokenizerBase,
    shown: Collection[str] = (),
    max_words: int = 8000,
) -> Vocabulary:
    """
    Add the words of a related language's pack, with their rows, to the new words of a language.

    Words that the new language has evidence of keep their own rows, or none: those of `vocabulary`, and those that the
    sentence pairs show often enough (`shown`).
    """
    theirs = relative.vocabulary
    if theirs is None:
        return vocabulary
    known = {*vocabulary.tokens, *shown, *tokenizer.get_vocab()}
    room = max(0, max_words - len(vocabulary.tokens))
    added = [place for place, word in enumerate(theirs.tokens) if word not in known][:room]
    rows = torch.cat([vocabulary.rows, theirs.rows[added].to(vocabulary.rows)])
    return replace(vocabulary, tokens=vocabulary.tokens + [theirs.tokens[place] for place in added], rows=rows)


def start_from(relative: LanguagePack, model: OpticalModel, language: str, vocabulary: Vocabulary | None) -> None:
    """Add an adapter for `language` with the weights of a related language's pack, and with other new words."""
    words = vocabulary if vocabulary is not None and vocabulary.tokens else None
    replace(relative, language=language, vocabulary=words, strength=1.0).attach(model)


def describe(relative: LanguagePack, name: str) -> str:
    """A sentence for the card: the pack, and what it was made from, with licences."""
    details = relative.details
    pairs, licence = details.get("bitext"), details.get("bitext_license")
    parts = [f"the pack {public_name(name)} for {relative.language}"]
    if details.get("license"):
        parts.append(f"licence {details['license']}")
    if pairs or licence:
        parts.append(f"made from {pairs or 'sentence pairs'}" + (f" (licence {licence})" if licence else ""))
    if details.get("dictionary_license"):
        parts.append(f"its dictionary has the licence {details['dictionary_license']}")
    return ", ".join(parts)
