"""Query translation into the language of the documents, with a dictionary or a translation model."""

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
from ..checks import check_number
from ..model.texts import as_texts


# Language codes among the special tokens, such as "hau_Latn" for NLLB or "sw_KE" for mBART.
_CODE = re.compile("[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
# Longer texts are truncated.
_MAX_TOKENS = 512


class LexiconTranslator:
    """
    Word-by-word translation: each word in the dictionary is replaced by its most likely translation.

    Args:
        dictionary ([`Dictionary`]): A dictionary from the language of the texts.
    """

    def __init__(self, dictionary: Dictionary):
        self.dictionary = dictionary

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """Translate texts, as in [`Seq2SeqTranslator.__call__`]."""
        texts = as_texts(texts)
        return [self.dictionary.replace(text, lambda entries: entries[0][0]) for text in texts]


class Seq2SeqTranslator:
    """
    Translation with any sequence-to-sequence model of transformers, by beam search.

    Multilingual models with language codes need both languages (NLLB: `"hau_Latn"`, M2M100: `"ha"`, mBART-50:
    `"sw_KE"`). Models of a single pair, such as Marian's, ignore them. If a model expects a tag before each text
    (`">>ibo<< "`, or `"<2en> "`), pass it as `prefix`.

    Args:
        model (`PreTrainedModel`): The model, on the device it should run on.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer. The source language is set before each use.
        source_language (`str`, *optional*): Code of the language of the texts. Required if the tokenizer has codes.
        target_language (`str`, defaults to `"en"`): Code of the language to translate into.
        prefix (`str`, defaults to `""`): Text to put before each text.
        batch_size (`int`, defaults to 32): Number of texts per batch.
        num_beams (`int`, defaults to 4): Number of beams.
        max_length (`int`, defaults to 128): Maximum number of tokens of a translation. Texts are truncated to 512
            tokens.
        show_progress (`bool`, defaults to `False`): Whether to show a progress bar.

    Raises:
        ValueError: If the tokenizer does not know a code, or a number is below 1.
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
            check_number(name, value, at_least=1)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.prefix, self.batch_size, self.show_progress = prefix, batch_size, show_progress
        # `generate` takes all other settings from the model, such as suppressed tokens. `max_new_tokens` would cause a
        # warning, because most models set `max_length`.
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
        Load model and tokenizer from the Hub or a folder.

        Args:
            name (`str` or `os.PathLike`): Hub id or folder, such as `"facebook/nllb-200-distilled-600M"`.
            source_language, target_language: See the class.
            device (`str` or `torch.device`, *optional*): Device to run on. Defaults to the GPU if there is one.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            options: The other arguments of the class.

        Raises:
            OSError: If the model does not exist or has no safetensors weights.
            ValueError: If the model is not a sequence-to-sequence model, or an argument of the class is invalid.
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
        Translate texts. Blank texts become empty ones.

        Raises:
            TypeError: If `texts` is a single string or holds something other than strings.
            DataError: If a text holds an unpaired surrogate.
        """
        texts = as_texts(texts)
        if self.source_language is not None:
            self.tokenizer.src_lang = self.source_language
        # Longest first, so that the texts of a batch have similar lengths. For a blank text, a model invents one.
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
            max_length=min(self.tokenizer.model_max_length, _MAX_TOKENS),
            return_tensors="pt",
        )
        output = self.model.generate(
            **{name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")},
            generation_config=self.generation_config,
        )
        decoded = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [text.strip() for text in decoded]


def _language_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Token id of each language code. Empty for a tokenizer without a source language."""
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if hasattr(tokenizer, "lang_code_to_id"):
        return tokenizer.lang_code_to_id
    ids = tokenizer.get_vocab()
    return {token: ids[token] for token in tokenizer.all_special_tokens if _CODE.fullmatch(token)}


def _check_code(name: str, code: str | None, codes: dict[str, int]) -> None:
    if code in codes:
        return
    similar = [known for known in sorted(codes) if code and known[:2] == code[:2]] or sorted(codes)
    listed = ", ".join(similar[:5]) + (", ..." if len(similar) > 5 else "")
    raise ValueError(f"{name} must be a code of the tokenizer, such as {listed}; got {code!r}")
