"""What a run tells of itself, and how several packs go to the Hub."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, create_repo, upload_folder

from .. import __version__
from ..evaluation.results import of_language
from ..hub import write_card
from .config import OTDistillationConfig


_SETTINGS = (
    "method",
    "anchor_weight",
    "new_words",
    "lora_rank",
    "learning_rate",
    "num_train_epochs",
    "seed",
)
_READING = ("side", "align_special_tokens")
_TRANSPORT = ("solver", "epsilon")
_RANKING = ("switch_probability", "switch_side", "ranking_target", "ranking_temperature", "ranking_weight")


def run_details(
    args: OTDistillationConfig,
    teacher: str,
    steps: int,
    languages: list[str],
    told: dict[str, dict[str, Any]],
    triples: int = 0,
) -> dict[str, Any]:
    """
    Where the weights come from, for pack and card.

    Args:
        args ([`OTDistillationConfig`]): the settings.
        teacher (`str`), steps (`int`): the teacher's name, the updates so far.
        languages (`list[str]`): the languages in the pack.
        told (`dict[str, dict]`): language -> what else is known of it.
        triples (`int`, defaults to 0): how many queries with documents were ranked, in place of sentences.
    """
    settings = _settings(args, languages, triples)
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
    }


def write_cards(
    args: OTDistillationConfig,
    base_model: str,
    details: Callable[[list[str]], dict[str, Any]],
    results: dict[str, float],
) -> None:
    """
    Writes the card of every pack, or of the model, beside it.

    Args:
        args ([`OTDistillationConfig`]): the settings.
        base_model (`str`): name of the base.
        details: languages -> where their weights come from.
        results (`dict[str, float]`): of all languages, named as [`over_languages`] does.
    """
    packs = args.packs
    for name, languages in (packs or {"": args.languages}).items():
        write_card(
            args.folder_of(name),
            kind="language_pack" if packs else "model",
            language=name or languages[0],
            languages=languages,
            base_model=base_model,
            details=details(languages),
            results=of_language(results, name) if len(packs) > 1 else results,
        )


def create_repositories(args: OTDistillationConfig, token: str | None, private: bool | None) -> dict[str, str]:
    """Pack -> id of its repository on the Hub, `hub_model_id-CODE`; created where there is none."""
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    private = args.hub_private_repo if private is None else private
    token = token or args.hub_token
    return {
        pack: create_repo(f"{name}-{pack}", token=token, private=private, exist_ok=True).repo_id for pack in args.packs
    }


def push_packs(
    args: OTDistillationConfig,
    repositories: dict[str, str],
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
) -> list[CommitInfo | Future[CommitInfo]]:
    """Uploads the folder of every pack to its repository."""
    return [
        upload_folder(
            repo_id=repository,
            folder_path=args.folder_of(pack),
            commit_message=commit_message,
            run_as_future=not blocking,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
        )
        for pack, repository in repositories.items()
    ]


def _settings(args: OTDistillationConfig, languages: list[str], triples: int) -> dict[str, Any]:
    """The settings that the method has a use for."""
    names = [
        *_SETTINGS,
        *(_READING if args.aligns or args.anchor_weight else ()),
        *(["marginals"] if args.aligns else ()),
        *(_TRANSPORT if args.method in ("ot", "hybrid") else ()),
        *(_RANKING if args.ranks else ()),
        *(["alternate"] if args.method == "hybrid" else ()),
    ]
    settings = {name: getattr(args, name) for name in names}
    if args.dictionary is not None:
        files = dict(zip(args.languages, args.dictionary, strict=True))
        settings["dictionary"] = ", ".join(Path(files[language]).name for language in languages)
    if triples:
        settings["triples"] = triples
    return settings


def _together(details: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told of several languages in one: numbers are summed, names listed."""
    if len(details) == 1:
        return details[0]
    merged = {}
    for key in dict.fromkeys(key for own in details for key in own):
        values = [own[key] for own in details if key in own]
        if all(isinstance(value, dict) for value in values):
            merged[key] = _together(values)
        elif all(isinstance(value, (int, float)) for value in values):
            merged[key] = sum(values)
        else:
            merged[key] = ", ".join(dict.fromkeys(map(str, values)))
    return merged
