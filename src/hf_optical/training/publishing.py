"""Model cards and Hub uploads of training runs."""

from __future__ import annotations

import importlib.util
import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import TrainerState

from ..hub import create_repository, upload_folder, write_card
from ..hub.cards import FIGURE
from ..languages.pack import PACK_FILES
from ..model import OpticalModel
from ..plots import plot_training
from ..storage.names import ENCODER_CONFIG, ENCODER_MODULE_CONFIG, MODULES, NEAREST_WORDS, ROLES_CONFIG, WEIGHTS
from ..storage.staging import staged_directory
from .config import OTDistillationConfig
from .record import RunRecord


logger = logging.getLogger(__name__)

# What is published of a run in addition to the files of a pack, or those of a model and its tokenizer.
RESULT_FILES = ("README.md", FIGURE, "eval_results.json", "all_results.json")
_MODEL_FILES = (
    *(ENCODER_CONFIG, ROLES_CONFIG, ENCODER_MODULE_CONFIG, MODULES, NEAREST_WORDS, WEIGHTS, "*_Dense/*"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.model", "chat_template.jinja"),
)


def write_run_card(
    args: OTDistillationConfig,
    record: RunRecord,
    model: OpticalModel,
    state: TrainerState,
    repositories: dict[str, str],
) -> None:
    """Write the card and the training curves of every pack, or of the model, into its folder."""
    for name, languages in (args.packs or {"": args.languages}).items():
        folder = args.folder_of(name)
        _draw(state.log_history, folder / FIGURE)
        write_card(
            folder,
            kind="language_pack" if args.packs else "model",
            base_model=model.name_or_path or "",
            base_revision=model.revision,
            languages=languages,
            code=name or None,
            details=record.card_details(languages, state.global_step),
            repo_id=repositories.get(name),
        )


def create_repositories(
    args: OTDistillationConfig, token: str | None = None, private: bool | None = None
) -> dict[str, str]:
    """Create `hub_model_id`, or `hub_model_id-CODE` for each of several packs; returns pack (or `""`) -> id."""
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    return {
        pack: create_repository(
            f"{name}-{pack}" if len(args.packs) > 1 else name,
            private=args.hub_private_repo if private is None else private,
            token=token or args.hub_token,
        )
        for pack in args.packs or [""]
    }


def push_run(
    args: OTDistillationConfig,
    repositories: dict[str, str],
    commit_message: str | None = None,
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
) -> list[CommitInfo | Future[CommitInfo]]:
    """Upload every pack, or the model, with its card and results, and nothing else that is in its folder."""
    return [
        upload_folder(
            args.folder_of(pack),
            repository,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            commit_message=commit_message,
            allow_patterns=[*RESULT_FILES, *(PACK_FILES if pack else _MODEL_FILES)],
            # A pack that was published there before would hide the model.
            delete_patterns=PACK_FILES if pack else [*_MODEL_FILES, *PACK_FILES],
            blocking=blocking,
        )
        for pack, repository in repositories.items()
    ]


def _draw(log_history: list[dict[str, Any]], file: Path) -> None:
    """Draw the training curves; without matplotlib, or with nothing logged, only remove an old figure."""
    file.unlink(missing_ok=True)
    if importlib.util.find_spec("matplotlib") is None:
        logger.info('The card has no training curves, which need matplotlib: pip install "hf_optical[plots]"')
        return
    try:
        figure = plot_training(log_history)
    except ValueError:  # nothing was logged
        return
    with staged_directory(file.parent) as staged:
        figure.savefig(staged / file.name, dpi=200)
