"""Queries translated into the language of the documents: by a dictionary, or by a translation model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..bitext import Dictionary
from ..model.texts import as_texts


# Codes of NLLB, such as "hau_Latn", and of mBART, such as "sw_KE", are among the special tokens.
_CODE = re.compile("[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_LONGEST = 512


class LexiconTranslator:
    """
    Translates word by word: each word that the dictionary holds becomes its likeliest translation, all else stays.

    Args:
        dictionary ([`Dictionary`]): from the language of the texts.
    """

    def __init__(self, dictionary: Dictionary):
        self.dictionary = dictionary

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """
        Translates texts.

        Raises:
            TypeError: `texts` is one string, or holds something else than strings.
            DataError: a text holds half a character (an unpaired surrogate).
        """
        return [self.dictionary.replace(text, lambda entries: entries[0][0]) for text in _checked(texts)]


class Seq2SeqTranslator:
    """
    Translates by any sequence-to-sequence model of Transformers, with beam search.

    Models that know their languages by codes (NLLB: `"hau_Latn"`, M2M100: `"ha"`, mBART-50: `"sw_KE"`) are told both
    languages. Others (Marian's models of one pair) know them anyway and are told nothing; what they want written
    before a text (`">>ibo<< "`, or `"<2en> "`) is the `prefix`.

    Args:
        model (`PreTrainedModel`): the model, where it is to run.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer. Its source language is set anew before each use.
        source_language (`str`, *optional*): code of the texts' language; must be given to a tokenizer with codes.
        target_language (`str`, defaults to `"en"`): code of the language to translate into.
        prefix (`str`, defaults to `""`): put before each text.
        batch_size (`int`, defaults to 32): texts at a time.
        num_beams (`int`, defaults to 4): beams.
        max_length (`int`, defaults to 128): tokens of the longest translation. A text is cut at 512 tokens.
        show_progress (`bool`, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: a code is unknown to the tokenizer, or a number is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source_language: str | None = None,
        target_language: str = "en",
        *,
        prefix: str = "",
        batch_size: int = 32,
        num_beams: int = 4,
        max_length: int = 128,
        show_progress: bool = False,
    ):
        for name, value in (("batch_size", batch_size), ("num_beams", num_beams), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.prefix, self.batch_size, self.show_progress = prefix, batch_size, show_progress
        # `generate` takes from the model what is not set here, such as tokens never to write. A length of new tokens
        # would be warned of beside the length that most models come with.
        self.generation_config = GenerationConfig(max_length=max_length, num_beams=num_beams, do_sample=False)
        codes = _language_codes(tokenizer)
        self.source_language = None
        if codes:
            for name, code in (("source_language", source_language), ("target_language", target_language)):
                _check_code(name, code, codes)
            self.source_language = source_language
            self.generation_config.forced_bos_token_id = codes[target_language]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        source_language: str | None = None,
        target_language: str = "en",
        *,
        device: str | torch.device | None = None,
        revision: str | None = None,
        **options,
    ) -> Seq2SeqTranslator:
        """
        Loads model and tokenizer from the Hub or a folder.

        Args:
            name (`str` or `os.PathLike`): such as `"facebook/nllb-200-distilled-600M"`.
            source_language, target_language: as for the class.
            device (`str` or `torch.device`, *optional*): where to run. Defaults to the GPU if there is one.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            options: the other arguments of the class.

        Raises:
            OSError: the model is not there, or holds no weights.
            ValueError: the model is no sequence-to-sequence model, or as for the class.
        """
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            name, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, tokenizer, source_language, target_language, **options)

    @torch.no_grad()
    def __call__(self, texts: Iterable[str]) -> list[str]:
        """
        Translates texts, longest first so that a batch holds texts of like length; an empty one stays empty.

        Raises:
            TypeError: `texts` is one string, or holds something else than strings.
            DataError: a text holds half a character (an unpaired surrogate).
        """
        texts = _checked(texts)
        if self.source_language is not None:
            self.tokenizer.src_lang = self.source_language
        # Asked to translate nothing, a model invents something.
        order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: -len(texts[i]))
        translations = [""] * len(texts)
        with tqdm(total=len(order), desc="Translating", unit="text", disable=not self.show_progress) as progress:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                for i, translation in zip(batch, self._translate([texts[i] for i in batch]), strict=True):
                    translations[i] = translation
                progress.update(len(batch))
        return translations

    def _translate(self, texts: list[str]) -> list[str]:
        inputs = self.tokenizer(
            [self.prefix + text for text in texts],
            padding=True,
            truncation=True,
            max_length=min(self.tokenizer.model_max_length, _LONGEST),
            return_tensors="pt",
        )
        output = self.model.generate(
            **{name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")},
            generation_config=self.generation_config,
        )
        decoded = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [text.strip() for text in decoded]


def _language_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Code -> token id; empty for a tokenizer that is told no language."""
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if hasattr(tokenizer, "lang_code_to_id"):
        return tokenizer.lang_code_to_id
    codes = [token for token in tokenizer.all_special_tokens if _CODE.fullmatch(token)]
    return dict(zip(codes, tokenizer.convert_tokens_to_ids(codes), strict=True))


def _check_code(name: str, code: str | None, codes: dict[str, int]) -> None:
    if code in codes:
        return
    alike = [known for known in sorted(codes) if code and known[:2] == code[:2]] or sorted(codes)
    listed = ", ".join(alike[:5]) + (", ..." if len(alike) > 5 else "")
    raise ValueError(f"{name} is {code!r}, which the tokenizer does not know; its codes are such as {listed}")


def _checked(texts: Iterable[str]) -> list[str]:
    texts = as_texts(texts)
    return texts
