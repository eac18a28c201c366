"""How a run tells of itself, and how it goes to the Hub."""

from __future__ import annotations

import importlib.util
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import Trainer

from ..hub import create_repository, upload_folder, write_card
from ..hub.cards import FIGURE
from ..languages.pack import PACK_FILES
from ..plots import plot_training
from ..storage.names import ENCODER_CONFIG, ENCODER_MODULE_CONFIG, MODULES, NEAREST_WORDS, ROLES_CONFIG, WEIGHTS
from ..storage.staging import staged_directory
from .config import OTDistillationConfig
from .run_details import beside, hardware, run_details


# What is published of a run beside the files of a pack, or those of a model and its tokenizer.
_TOLD = ("README.md", FIGURE, "eval_results.json", "all_results.json")
_MODEL_FILES = (
    *(ENCODER_CONFIG, ROLES_CONFIG, ENCODER_MODULE_CONFIG, MODULES, NEAREST_WORDS, WEIGHTS, "*_Dense/*"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.model", "chat_template.jinja"),
)


class PublishingTrainer(Trainer):
    """
    What [`OTDistillationTrainer`] tells of its run, writes on cards and sends to the Hub.

    Attributes:
        references (`dict[str, dict]`), details (`dict[str, dict]`): see [`OTDistillationTrainer`].
    """

    def __init__(self, *args, **kwargs):
        self.references: dict[str, dict[str, dict[str, float]]] = {}
        self.details: dict[str, dict[str, Any]] = {}
        # What is known without being told, by language.
        self._facts: dict[str, dict[str, Any]] = {}
        # Language -> the step after which it was measured, and what came out.
        self._measured: dict[str, tuple[int, dict[str, Any]]] = {}
        self._seconds: float | None = None
        self._triples = 0
        # What was given in place of settings.
        self._given: dict[str, Any] = {}
        self._repositories: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """
        What the student, as it is now, was measured to find: language -> results as in [`write_card`]. Empty after
        training has gone on since the last evaluation.
        """
        zero_shot, ceiling = (self.references.get(name, {}) for name in ("zero_shot", "ceiling"))
        return {
            language: beside(measured, zero_shot.get(language, {}), ceiling.get(language, {}))
            for language, (step, measured) in self._measured.items()
            if step == self.state.global_step
        }

    def _details(self, languages: list[str]) -> dict[str, Any]:
        told = {
            language: {**self._facts.get(language, {}), **self.details.get(language, {})} for language in languages
        }
        return run_details(
            self.args,
            self.teacher.name_or_path,
            self.state.global_step,
            languages,
            told,
            triples=self._triples,
            given=self._given,
            teacher_revision=self.teacher.revision,
            seconds=self._seconds,
            hardware=hardware(self.args) if self._seconds else None,
            results={language: own for language, own in self.results.items() if language in languages},
        )

    def create_model_card(self, **kwargs) -> None:
        """
        Writes the card of what was trained to `README.md` beside it, a card for each pack, and the course of the
        training as a figure, if there is matplotlib.

        The results on it are `self.results`; what else should be told (the bitext's name, say) goes into
        `self.details`.
        """
        if not self.is_world_process_zero():
            return
        packs = self.args.packs
        for name, languages in (packs or {"": self.args.languages}).items():
            folder = self.args.folder_of(name)
            _draw(self.state.log_history, folder / FIGURE)
            write_card(
                folder,
                kind="language_pack" if packs else "model",
                base_model=self.model.name_or_path,
                base_revision=self.model.revision,
                languages=languages,
                code=name or None,
                details=self._details(languages),
                repo_id=self._repositories.get(name),
            )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if self.is_world_process_zero():
            self._repositories = create_repositories(self.args, token, private)
            self.hub_model_id = ", ".join(self._repositories.values())

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> Any:
        """
        As [`~transformers.Trainer.push_to_hub`]; several packs go to `hub_model_id-CODE` each, and a list comes back.

        Published are the files of the packs or the model, the card with its figure, and the results.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        self.create_model_card(**kwargs)
        if self.is_world_process_zero():
            pushed = push_run(self.args, self._repositories, commit_message, blocking, token, revision)
            return pushed if len(self.args.packs) > 1 else pushed[0]


def create_repositories(
    args: OTDistillationConfig, token: str | None = None, private: bool | None = None
) -> dict[str, str]:
    """
    Makes what a run is published in, where it is not there yet: `hub_model_id`, or `hub_model_id-CODE` for each of
    several packs.

    Returns:
        `dict[str, str]`: pack, or `""` where all weights are trained -> id of its repository on the Hub.
    """
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
    """Uploads every pack, or the model, with its card and results; of whatever else a run wrote there, nothing."""
    return [
        upload_folder(
            args.folder_of(pack),
            repository,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            commit_message=commit_message,
            allow_patterns=[*_TOLD, *(PACK_FILES if pack else _MODEL_FILES)],
            # A pack that was there before would hide the model.
            delete_patterns=PACK_FILES if pack else [*_MODEL_FILES, *PACK_FILES],
            blocking=blocking,
        )
        for pack, repository in repositories.items()
    ]


def _draw(log_history: list[dict[str, Any]], file: Path) -> None:
    """Draws the course of the training; without matplotlib or anything to draw there is no figure, nor an old one."""
    file.unlink(missing_ok=True)
    if importlib.util.find_spec("matplotlib") is None:
        return
    try:
        figure = plot_training(log_history)
    except ValueError:  # nothing was logged
        return
    with staged_directory(file.parent) as staged:
        figure.savefig(staged / file.name, dpi=200)
