"""Cards of published packs and models. Their templates are in `hub_cards/`."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FunctionLoader

from ..checks import check_choice
from ..errors import printable
from ..methods import card_text
from ..storage.fetching import public_name
from ..storage.names import NEAREST_WORDS, PACKS_FOLDER, PROJECTION
from ..storage.staging import write_text
from .details import invalid_details
from .language_names import language_name, named_code
from .quoting import code as in_quotes
from .quoting import prose, span
from .results import eval_results, results_table


# Template -> the library that opens it, how it relates to its base, and its title.
_KINDS = {
    "language_pack": ("hf_optical", "adapter", "Language pack"),
    "model": ("sentence-transformers", "finetune", "Late-interaction model"),
}
# Placeholders in the code of a card for unknown repositories or folders.
PLACE, BASE_PLACE, TEACHER_PLACE = "REPOSITORY_OR_FOLDER", "WHERE_THE_BASE_IS", "WHERE_THE_TEACHER_IS"
# The plot of training, which the card shows if it is in the same folder.
FIGURE = "training.png"
# The card warns of wide intervals if there are fewer queries.
_MANY = 200


def write_card(
    folder: str | os.PathLike,
    *,
    kind: str,
    base_model: str,
    languages: list[str],
    code: str | None = None,
    details: dict[str, Any],
    base_revision: str | None = None,
    repo_id: str | None = None,
) -> None:
    """
    Write the card `README.md`: metadata for the Hub and a page for readers.

    Paths on this machine are shortened to their last part. Write the card last: the size, whether there are new words
    and the figure `training.png` are taken from the folder.

    Args:
        folder (`str` or `os.PathLike`): The folder of the pack or model.
        kind (`str`): `"language_pack"` or `"model"`, the name of the template.
        base_model (`str`):
            Hub id of the base. A folder on this machine is left out of the metadata; `""` where none is known.
        languages (`list[str]`): Codes of the languages that it was trained on.
        code (`str`, *optional*): Code of the pack, if several languages share it. Defaults to the first language.
        details (`dict`):
            Where the weights come from, as in [`LanguagePack`]. All entries are optional, and a `str` unless noted:
            `teacher`, `teacher_revision`, `teacher_fingerprint`, `teacher_language`, `projection` (how one was
            fitted), `init_pack` (the pack of a related language that it started from), `bitext`, `bitext_license`,
            `pairs` (`int`), `entries` of dictionaries (`int`), `from_dictionary` (`bool`: without pairs),
            `dictionary_license`, `sentences` (`int`) of `english` texts with words switched, `english_license`,
            `text_words` (`int`) of plain text in the language, `monolingual` (its source), `monolingual_license`,
            `scripts` (`list[str]`), `settings` (`dict`), `seconds` (`float`), `hardware`, `base_dtype` (if not
            float32), `license` (a licence identifier of the Hub), `note` (plain text), and `results`: language ->
            `{"dataset": str, "queries": int, "level": float, "measures": {"map": {"trained": float, "interval":
            [float, float], "zero_shot": float, "ceiling": float}, ...}, "gap_closed": float}`. Results must have
            `dataset`, `queries` and `measures`, and each measure `trained`. An unknown method in `settings` is not
            described.
        base_revision (`str`, *optional*): Commit of the base on the Hub.
        repo_id (`str`, *optional*):
            The repository of the pack or model, for the code on the page. Defaults to the folder, if it is in the
            current one.

    Raises:
        ValueError: `kind` is not a template, or an entry of `details` has a wrong type or is too large.
    """
    check_choice("kind", kind, _KINDS)
    if wrong := invalid_details(details):
        raise ValueError(
            f"details must have the entries that write_card documents; missing or of the wrong type: "
            f"{printable(', '.join(wrong[:5])):.1000}"
        )
    folder = Path(folder)
    title = _KINDS[kind][2] + (f" for {', '.join(map(named_code, languages))}" if languages else "")
    found = _files(folder)
    language = next(iter([*filter(None, [code]), *found["packs"], *languages]), None)
    content = {
        "card_data": _metadata(kind, base_model, base_revision, languages, details, title).to_yaml(),
        "title": title,
        "place": repo_id or _place(folder),
        "language": language,
        "question": f"A question in {language_name(languages[0])}" if languages else "Which rivers are in Africa?",
        "languages": ", ".join(map(named_code, languages)),
        **_models(base_model, base_revision, details),
        **_training(details),
        **_results(details.get("results") or {}),
        **found,
    }
    text = _templates().get_template(f"{kind}.md").render(content)
    # Empty parts of the template leave blank lines.
    write_text(folder / "README.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def _place(folder: Path) -> str:
    """The folder as code opens it from the current folder. A path from elsewhere stays private."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return PLACE


def _templates() -> Environment:
    templates = Environment(
        loader=FunctionLoader(lambda name: files("hf_optical.hub_cards").joinpath(name).read_text(encoding="utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # All text from outside goes through one of these.
    templates.filters |= {"code": in_quotes, "prose": prose, "span": span}
    return templates


def _models(base_model: str, base_revision: str | None, details: dict[str, Any]) -> dict[str, Any]:
    """Base and teacher, as links and as names in code."""
    teacher, teacher_revision = details.get("teacher"), details.get("teacher_revision")
    base_teaches = bool(teacher) and teacher == base_model and not details.get("projection")
    return {
        "base": _link(base_model, revision=base_revision) if base_model else None,
        "base_place": base_model if is_hub_id(base_model, base_revision) else BASE_PLACE,
        "base_revision": base_revision,
        "base_dtype": details.get("base_dtype"),
        "teacher": _link(teacher, revision=teacher_revision) if teacher else None,
        "teacher_place": teacher if teacher and is_hub_id(teacher, teacher_revision) else TEACHER_PLACE,
        "teacher_revision": teacher_revision,
        "teacher_language": _teacher_language(details),
        "base_teaches": base_teaches,
        # Queries are trained to match the vectors of the teacher, so its index is the one to search.
        "indexer": "the teacher" if teacher and not base_teaches else "the base",
    }


def _training(details: dict[str, Any]) -> dict[str, Any]:
    """Training data, settings, method and citations."""
    settings, bitext, seconds = details.get("settings") or {}, details.get("bitext"), details.get("seconds")
    names = (
        *("bitext_license", "pairs", "entries", "from_dictionary", "dictionary_license"),
        *("sentences", "english", "english_license", "text_words", "monolingual", "monolingual_license"),
        *("scripts", "hardware", "projection", "init_pack", "license", "note"),
    )
    method = card_text(settings, prose(_teacher_language(details)), span(settings.get("loss")))
    return {name: details.get(name) for name in names} | {
        "settings": settings,
        "method": method.text if settings else None,
        "citations": "\n\n".join(method.citations) if settings else None,
        "bitext": ", ".join(_link(name, "datasets/") for name in bitext.split(", ")) if bitext else None,
        "time": _duration(seconds) if seconds else None,
        "queries_only": bool(settings) and settings.get("side", "query") == "query",
    }


def _results(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    levels = [result["level"] for result in results.values() if result.get("level") is not None]
    fewest = min((result["queries"] for result in results.values()), default=_MANY)
    return {
        "results": [
            {
                "language": language,
                "table": results_table(result["measures"]),
                **{name: result.get(name) for name in ("dataset", "queries", "gap_closed")},
            }
            for language, result in results.items()
        ],
        "level": levels[0] if levels else None,
        "few": fewest if fewest < _MANY else None,
    }


def _files(folder: Path) -> dict[str, Any]:
    """Facts about the files in the folder."""
    return {
        "megabytes": sum(weights.stat().st_size for weights in folder.glob("*.safetensors")) / 1e6,
        "new_words": (folder / "vocabulary.safetensors").is_file(),
        "projected": (folder / PROJECTION).is_file(),
        "nearest_words": (folder / NEAREST_WORDS).is_file(),
        "packs": sorted(path.name for path in (folder / PACKS_FOLDER).glob("*/")),
        # For a pack in the folder of a retriever, which is published as a whole.
        "subfolder": f"{PACKS_FOLDER}/{folder.name}" if folder.parent.name == PACKS_FOLDER else None,
        "figure": (folder / FIGURE).is_file(),
    }


def _metadata(
    kind: str,
    base_model: str,
    base_revision: str | None,
    languages: list[str],
    details: dict[str, Any],
    title: str,
) -> ModelCardData:
    library, relation, _ = _KINDS[kind]
    settings = details.get("settings") or {}
    on_hub = is_hub_id(base_model, base_revision)
    bitexts = [name for name in (details.get("bitext") or "").split(", ") if is_hub_id(name)]
    found = eval_results(details.get("results") or {})
    return ModelCardData(
        language=iso_codes(languages) or None,
        license=details.get("license"),
        library_name=library,
        base_model=base_model if on_hub else None,
        # Without settings it is unknown how the model relates to its base.
        base_model_relation=relation if on_hub and (settings or kind == "language_pack") else None,
        datasets=bitexts or None,
        pipeline_tag="sentence-similarity",
        tags=[
            *("hf-optical", "late-interaction", "multi-vector", "colbert", "cross-lingual"),
            *(card_text(settings, "", "").tags if "method" in settings else ()),
        ],
        model_name=title if found else None,
        eval_results=found or None,
    )


def iso_codes(languages: list[str]) -> list[str]:
    """Language codes that the Hub accepts, two or three letters: `sw` of `sw_TZ`, `swa` of `swa-Latn`."""
    found = [re.match(r"[a-z]{2,3}(?![a-z0-9])", code) for code in languages]
    return list(dict.fromkeys(match[0] for match in found if match))


def _link(name: str, kind: str = "", revision: str | None = None) -> str:
    """Format a Hub id as a link, and anything else as its public name."""
    linked = is_hub_id(name, revision)
    return f"[{name}](https://huggingface.co/{kind}{name})" if linked else span(public_name(name))


def _teacher_language(details: dict[str, Any]) -> str:
    code = details.get("teacher_language") or "en"
    return "English" if code == "en" else code


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_hub_id(name: str, revision: str | None = None) -> bool:
    """Guess whether a name is that of a repository on the Hub: it has a namespace or a commit, and is no file here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.isprintable() and ("/" in name or revision is not None) and not Path(name).exists()
