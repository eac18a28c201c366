"""What is known of a run: its settings, what it learned from and on, and what the student finds."""

from __future__ import annotations

import platform
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..evaluation import RetrievalEvaluator, bootstrap_interval, gap_closed
from ..retrieval.search import Hit
from .config import OTDistillationConfig


_LEVEL = 0.95
_SETTINGS = ("method", "anchor_weight", "learning_rate", "seed")
_PACK = ("new_words", "lora_rank")
# Where the name of a letter goes on after that of its script: LATIN SMALL LETTER A, HANGUL SYLLABLE GAN.
_AFTER_SCRIPT = (
    r" (?:SMALL|CAPITAL|LETTER|SYLLABLE|SYLLABICS|CHARACTER|IDEOGRAPH|UNIFIED|COMPATIBILITY|LIGATURE|VOWEL)"
)
# Told of some languages, these would be taken to hold for the others too.
_OF_ALL = ("license", "bitext_license")
_READING = ("side", "align_special_tokens")
# Solver -> the settings that it has a use for.
_TRANSPORT = {
    "sinkhorn": ("epsilon",),
    "proximal": ("epsilon",),
    "exact": (),
    "unbalanced": ("epsilon", "marginal_penalty"),
    "partial": ("transported_mass",),
}
_RANKING = ("switch_probability", "switch_side", "ranking_target", "ranking_temperature", "ranking_weight")


def run_details(
    args: OTDistillationConfig,
    teacher: str,
    steps: int,
    languages: list[str],
    told: dict[str, dict[str, Any]],
    triples: int = 0,
    given: dict[str, Any] | None = None,
    **run: Any,
) -> dict[str, Any]:
    """
    Where the weights come from, for pack and card.

    Args:
        args ([`OTDistillationConfig`]): the settings.
        teacher (`str`), steps (`int`): the teacher's name, the updates so far.
        languages (`list[str]`): the languages in the pack.
        told (`dict[str, dict]`): language -> what else is known of it.
        triples (`int`, defaults to 0): how many queries with documents were ranked, in place of sentences.
        given (`dict`, *optional*): what the trainer was given in place of settings, `lora_rank` or `loss`.
        run: what else is known of the run; `None` is left out.
    """
    settings = _settings(args, languages, triples, given or {})
    if len(args.languages) > 1:
        settings["languages of the run"] = ", ".join(args.languages)
        settings["sampling_temperature"] = args.sampling_temperature
    return {
        "hf_optical_version": __version__,
        "languages": languages,
        "teacher": teacher,
        "teacher_language": args.teacher_language,
        "steps": steps,
        "settings": settings,
        **_together([told.get(language, {}) for language in languages]),
        **{name: value for name, value in run.items() if value is not None},
    }


def measure(evaluator: RetrievalEvaluator, hits: dict[str, list[Hit]]) -> dict[str, Any]:
    """
    What a student found, as a card tells it.

    Returns:
        `dict`: `dataset` (`str`), `queries` (`int`), `level` (`float`, of the intervals) and `measures`: measure ->
        `trained`, its mean over the queries, and `interval`, from [`bootstrap_interval`].
    """
    means = evaluator.measure(hits)
    measures = {
        name: {"trained": means[name], "interval": list(bootstrap_interval(values, _LEVEL))}
        for name, values in evaluator.measure_each(hits).items()
    }
    queries = len(evaluator.dataset.qrels)
    return {"dataset": evaluator.dataset.name, "queries": queries, "level": _LEVEL, "measures": measures}


def beside(measured: dict[str, Any], zero_shot: dict[str, float], ceiling: dict[str, float]) -> dict[str, Any]:
    """What [`measure`] made, with what the untrained student and the ceiling reached, as far as that is known."""
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
    """
    The scripts that texts are written in, by the Unicode names of their letters: `["Latin"]`. One that makes up less
    than a hundredth of them is a foreign word here and there.
    """
    letters = Counter(letter for text in texts for letter in text)
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        # Modifiers (Lm) such as the apostrophe of Hausa belong to no script.
        if unicodedata.category(letter) in ("Ll", "Lo", "Lt", "Lu"):
            script = re.split(_AFTER_SCRIPT, unicodedata.name(letter, ""), maxsplit=1)[0]
            found["Han" if script == "CJK" else script.title()] += count
    return [script for script, count in found.most_common() if script and count >= 0.01 * found.total()]


def hardware(args: OTDistillationConfig) -> str:
    """What a run computed on: `"2 x NVIDIA H200"`."""
    if args.device.type == "cuda":
        name = torch.cuda.get_device_name(args.device)
    elif args.device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = args.device.type
    return name if args.world_size == 1 else f"{args.world_size} x {name}"


def processor_name() -> str:
    """The name of the processor; Python itself knows only its family."""
    known = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", known.read_text() if known.is_file() else "", re.M)
    return name[1] if name else platform.processor() or platform.machine()


def _settings(args: OTDistillationConfig, languages: list[str], triples: int, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that the method has a use for."""
    names = [
        *_SETTINGS,
        *(_PACK if args.packs else ()),
        "max_steps" if args.max_steps > 0 else "num_train_epochs",
        *(_READING if args.aligns or args.anchor_weight else ()),
        *(["marginals"] if args.aligns else ()),
        *(("solver", *_TRANSPORT[args.solver]) if args.method in ("ot", "hybrid") and "loss" not in given else ()),
        *(_RANKING if args.ranks else ()),
        *(["alternate"] if args.method == "hybrid" else ()),
    ]
    settings = {name: getattr(args, name) for name in names} | given
    settings["batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    settings["precision"] = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    if args.dictionary is not None:
        files = dict(zip(args.languages, args.dictionary, strict=True))
        settings["dictionary"] = ", ".join(Path(files[language]).name for language in languages)
    if triples:
        settings["triples"] = triples
    return settings


def _together(details: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told of several languages in one: numbers are summed, names and lists joined."""
    if len(details) == 1:
        return details[0]
    merged = {}
    for key in dict.fromkeys(key for own in details for key in own):
        values = [own[key] for own in details if key in own]
        if key in _OF_ALL and len(values) < len(details):
            continue
        if all(isinstance(value, dict) for value in values):
            merged[key] = _together(values)
        elif all(isinstance(value, (int, float)) for value in values):
            merged[key] = sum(values)
        elif all(isinstance(value, list) for value in values):
            merged[key] = list(dict.fromkeys(each for value in values for each in value))
        else:
            merged[key] = ", ".join(dict.fromkeys(map(str, values)))
    return merged
