"""The record of a run: its settings, the texts it was trained on, its results, for packs and cards."""

from __future__ import annotations

import platform
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from .. import __version__
from ..bitext.entries import Entries, without_switched
from ..evaluation import RetrievalEvaluator, bootstrap_interval, gap_closed
from ..methods import Method, name_of, turns
from ..model import OpticalModel
from ..retrieval.search import Hit
from .config import OTDistillationConfig


# Level of the confidence intervals.
_LEVEL = 0.95
_SETTINGS = ("method", "anchor_weight", "learning_rate", "seed")
_PACK_SETTINGS = ("new_words", "lora_rank")
# What follows the script in the Unicode name of a letter: LATIN SMALL LETTER A, HANGUL SYLLABLE GAN.
_AFTER_SCRIPT = (
    r" (?:SMALL|CAPITAL|LETTER|SYLLABLE|SYLLABICS|CHARACTER|IDEOGRAPH|UNIFIED|COMPATIBILITY|LIGATURE|VOWEL)"
)
# Known for some languages only, these would be taken to hold for all.
_FOR_ALL = ("license", "bitext_license", "dictionary_license", "english_license", "monolingual_license")


class RunRecord:
    """
    Everything a pack and its card say about a run.

    `triples` is the number of queries with documents that are ranked in place of sentences; `streamed` says that
    `pairs` are only the first ones of a stream; `lora_rank` is that of an adapter that the settings do not describe;
    `entries` are those of dictionaries; `text_words` counts the words of plain text; `from_dictionary` says that
    dictionaries made all `pairs`; `projection` describes one that was fitted for the student, `init_pack` the pack
    that the run started from.
    """

    def __init__(
        self,
        args: OTDistillationConfig,
        methods: list[Method],
        teacher: OpticalModel,
        pairs: dict[str, Dataset],
        triples: int = 0,
        lora_rank: int | None = None,
        streamed: bool = False,
        entries: Mapping[str, Entries] | None = None,
        text_words: Mapping[str, int] | None = None,
        from_dictionary: bool = False,
        projection: str | None = None,
        init_pack: str | None = None,
    ):
        self.args, self.methods, self.teacher = args, methods, teacher
        self.triples, self.lora_rank, self.projection, self.init_pack = triples, lora_rank, projection, init_pack
        self.from_dictionary = from_dictionary
        self._teacher_fingerprint = teacher.fingerprint()
        self.references: dict[str, dict[str, dict[str, float]]] = {}
        self.details: dict[str, dict[str, Any]] = {}
        self.seconds: float | None = None
        self._facts: dict[str, dict[str, Any]] = {}
        for language, own in pairs.items():
            listed = (entries or {}).get(language, [])
            # A switched sentence is mostly in the letters of the teacher's language.
            translated = without_switched(own)
            texts = [word for word, _ in listed] or [row[language] for row in translated[:10_000]["translation"]]
            facts: dict[str, Any] = {"scripts": scripts_of(texts)}
            if listed:
                facts["entries"] = len(listed)
            if text_words and language in text_words:
                facts["text_words"] = text_words[language]
            if len(own) > len(translated) and args.num_train_epochs:
                facts["sentences"] = len(own) - len(translated)
            if not (from_dictionary or streamed):
                facts["pairs"] = len(translated)
            self._facts[language] = facts
        # Language -> the step after which the student was measured, and the result.
        self._measured: dict[str, tuple[int, dict[str, Any]]] = {}

    def forget_results(self) -> None:
        """Drop results that no longer belong to the student's weights."""
        self._measured.clear()

    def add_result(self, language: str, step: int, result: dict[str, Any]) -> None:
        """Keep what [`measure`] found after a step."""
        self._measured[language] = step, result

    def results(self, step: int) -> dict[str, dict[str, Any]]:
        """Language -> results of the student as it is after `step`, as in [`write_card`]."""
        zero_shot, ceiling = (self.references.get(name, {}) for name in ("zero_shot", "ceiling"))
        return {
            language: add_references(measured, zero_shot.get(language, {}), ceiling.get(language, {}))
            for language, (measured_at, measured) in self._measured.items()
            if measured_at == step
        }

    def card_details(self, languages: list[str], step: int) -> dict[str, Any]:
        """The `details` of a pack for some of the languages, or of a model, as in [`write_card`]."""
        args = self.args
        settings = self._settings(languages)
        if len(args.languages) > 1:
            settings["languages of the run"] = ", ".join(args.languages)
            settings["sampling_temperature"] = args.sampling_temperature
        known = {
            "teacher_revision": self.teacher.revision,
            "projection": self.projection,
            "init_pack": self.init_pack,
            "from_dictionary": self.from_dictionary or None,
            "seconds": self.seconds,
            "hardware": hardware(args) if self.seconds else None,
            "results": {name: result for name, result in self.results(step).items() if name in languages},
        }
        return {
            "hf_optical_version": __version__,
            "languages": languages,
            "teacher": self.teacher.name_or_path,
            "teacher_fingerprint": self._teacher_fingerprint,
            "teacher_language": args.teacher_language,
            "steps": step,
            "settings": settings,
            **_merged([self._sources(code) for code in languages]),
            **{name: value for name, value in known.items() if value is not None},
        }

    def _sources(self, language: str) -> dict[str, Any]:
        """What a language was trained on; English texts only if sentences of them were."""
        facts = self._facts.get(language, {})
        unused = () if "sentences" in facts else ("english", "english_license")
        return facts | {name: value for name, value in self.details.get(language, {}).items() if name not in unused}

    def _settings(self, languages: list[str]) -> dict[str, Any]:
        """The settings that the methods use."""
        args = self.args
        names = [
            *_SETTINGS,
            *(_PACK_SETTINGS if args.packs else ()),
            "max_steps" if args.max_steps > 0 else "num_train_epochs",
            *(["alternate"] if len(turns(self.methods, True)) > 1 else ()),
        ]
        settings = {name: getattr(args, name) for name in names} | {"method": name_of(self.methods)}
        for method in self.methods:
            settings |= method.used_settings()
        if self.lora_rank is not None:
            settings["lora_rank"] = self.lora_rank
        settings["batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        settings["precision"] = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
        if args.dictionary is not None:
            files = args.dictionary_files
            settings["dictionary"] = ", ".join(Path(file).name for language in languages for file in files[language])
        if any("sentences" in self._facts.get(language, {}) for language in languages):
            settings["switch_probability"] = args.switch_probability
        if self.triples:
            settings["triples"] = self.triples
        return settings


def measure(evaluator: RetrievalEvaluator, hits: dict[str, list[Hit]]) -> dict[str, Any]:
    """Summarise what a student found, with means over the queries and bootstrap intervals, as in [`write_card`]."""
    means = evaluator.measure(hits)
    measures = {
        name: {"trained": means[name], "interval": list(bootstrap_interval(values, _LEVEL))}
        for name, values in evaluator.measure_each(hits).items()
    }
    queries = len(evaluator.dataset.qrels)
    return {"dataset": evaluator.dataset.name, "queries": queries, "level": _LEVEL, "measures": measures}


def add_references(measured: dict[str, Any], zero_shot: dict[str, float], ceiling: dict[str, float]) -> dict[str, Any]:
    """Add the results of the untrained student and of the ceiling, if known, to those of [`measure`]."""
    known = {"zero_shot": zero_shot, "ceiling": ceiling}
    measures = {
        name: own | {row: values[name] for row, values in known.items() if name in values}
        for name, own in measured["measures"].items()
    }
    first, gap = measures.get("map", {}), None
    if {"zero_shot", "ceiling"} <= first.keys():
        gap = gap_closed(first["zero_shot"], first["trained"], first["ceiling"])
    return {**measured, "measures": measures, **({} if gap is None else {"gap_closed": gap})}


def scripts_of(texts: Iterable[str]) -> list[str]:
    """List the scripts of texts, such as `["Latin"]`, by the Unicode names of letters; the rarest are left out."""
    letters = Counter(letter for text in texts for letter in text)
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        # Modifiers (Lm) such as the apostrophe of Hausa belong to no script.
        if unicodedata.category(letter) in ("Ll", "Lo", "Lt", "Lu"):
            script = re.split(_AFTER_SCRIPT, unicodedata.name(letter, ""), maxsplit=1)[0]
            found["Han" if script == "CJK" else script.title()] += count
    return [script for script, count in found.most_common() if script and count >= 0.01 * found.total()]


def hardware(args: OTDistillationConfig) -> str:
    """Name the hardware of a run: `"2 x NVIDIA H200"`."""
    if args.device.type == "cuda":
        name = torch.cuda.get_device_name(args.device)
    elif args.device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = args.device.type
    return name if args.world_size == 1 else f"{args.world_size} x {name}"


def processor_name() -> str:
    """Name the processor; Python itself only knows its family."""
    known = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", known.read_text() if known.is_file() else "", re.M)
    return name[1] if name else platform.processor() or platform.machine()


def _merged(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the details of several languages: numbers are summed, names and lists joined."""
    if len(details) == 1:
        return details[0]
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for own in details for key in own):
        values = [own[key] for own in details if key in own]
        if key in _FOR_ALL and len(values) < len(details):
            continue
        if all(isinstance(value, dict) for value in values):
            merged[key] = _merged(values)
        elif all(isinstance(value, (int, float)) for value in values):
            merged[key] = sum(values)
        elif all(isinstance(value, list) for value in values):
            merged[key] = list(dict.fromkeys(each for value in values for each in value))
        else:
            merged[key] = ", ".join(dict.fromkeys(map(str, values)))
    return merged
