from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..languages.adapters import adapter_name
from .distributed import check_strategy


_MARGINALS = ("uniform", "idf")
# Ways to sample that keep to one language in a batch.
_STRATEGIES = ("random", "group_by_length")
_METHODS = ("ot", "greedy", "sentence", "code_switch", "hybrid")
_TARGETS = ("teacher", "labels")
# Settings for metrics of one's own, and what they are here: the cost of every pair is all there is.
_METRICS = {"eval_do_concat_batches": True, "batch_eval_metrics": False, "include_for_metrics": []}
_ROLES = {"query": ("query",), "document": ("document",), "both": ("query", "document")}


@dataclass(repr=False)  # TrainingArguments' own hides the Hub token
class OTDistillationConfig(TrainingArguments):
    r"""
    Settings of [`OTDistillationTrainer`]: those of [`~transformers.TrainingArguments`] and the ones below.

    Args:
        language (`str` or `list[str]`, *optional*):
            Code of the language to teach; it names the pack. Several codes train several packs beside each other, one
            for each language. Required.
        shared_pack (`str`, *optional*):
            Code of one pack which all languages share, in place of one for each.
        sampling_temperature (`float`, defaults to 1.0):
            With several languages: one with `n` pairs gets batches in proportion to `n ** (1 / sampling_temperature)`
            (arXiv 1907.05019). 1 takes the pairs as they come; more gives small languages more.
        teacher_language (`str`, defaults to `"en"`):
            Code of the language that the teacher reads.
        cache_teacher (`bool`, *optional*):
            Whether the teacher reads every sentence once, before training, and its vectors are kept on disk for later
            epochs, languages and runs ([`TeacherVectors`]). By default where there is more than one epoch, on one
            machine.
        teacher_cache_dir (`str`, *optional*):
            Where to. Defaults to the cache folder of `datasets`.
        method (`str`, defaults to `"ot"`):
            What is learned from. `"ot"`: transport from the tokens of a sentence to those of its translation
            ([`OTAlignmentLoss`]). `"greedy"`: one-to-one alignment ([`GreedyAlignmentLoss`], Dr.DECR). `"sentence"`:
            mean vectors ([`SentenceMSELoss`]). `"code_switch"`: English texts with words of the new language switched
            in are to rank as the teacher ranks them in English ([`CodeSwitchedRanking`], [`RankingLoss`]); the
            translations serve for words only. `"hybrid"`: `"ot"` and `"code_switch"` in one.
        side (`str`, defaults to `"query"`):
            As what the sentences are read: `"query"`, `"document"` or `"both"`.
        switch_probability (`float`, defaults to 0.5), switch_side (`str`, defaults to `"query"`):
            With code switching: the probability that a word is switched, and in what: `"query"`, `"document"` or
            `"both"`. Documents that are not switched are read by the teacher, as those of the index are. A query and
            a document of the same words are drawn for apart. What a text becomes depends on it and on the seed alone,
            so it is the same in every epoch.
        dictionary (`list[str]`, *optional*):
            Files in MUSE's format ([`read_muse`]), English to the new language, one a language. Learned from the
            sentence pairs by default ([`learn_dictionary`]).
        ranking_target (`str`, defaults to `"teacher"`), ranking_temperature (`float`, defaults to 0.2):
            What the ranking is to be: that of the teacher's scores, or with `"labels"` the relevant document first;
            see [`RankingLoss`]. The documents are those of the batch, so this loss depends on the batch size of a
            device, in training and at evaluation (`eval_loss`).
        ranking_weight (`float`, defaults to 1.0):
            Weight of the ranking beside the other parts of the loss: the transported cost, with `"hybrid"`, and the
            anchor.
        alternate (`bool`, defaults to `False`):
            With `"hybrid"`: one step transport, the next ranking, in place of both in every step.
        solver (`str`, defaults to `"sinkhorn"`), epsilon (`float`, defaults to 0.01), max_iterations (`int`, defaults
            to 100), tolerance (`float`, defaults to 1e-3), marginal_penalty (`float`, defaults to 1.0),
            transported_mass (`float`, defaults to 0.8):
            The transport problem, as in [`transport_plan`].
        marginals (`str`, defaults to `"idf"`):
            What each token counts for: `"uniform"`, or `"idf"`, the more the fewer training sentences hold it
            ([`inverse_document_frequency`]). In the transport these are the marginals; `"greedy"` weighs aligned
            tokens by them, `"sentence"` the tokens of a mean. `"code_switch"` has no use for them.
        align_special_tokens (`bool`, defaults to `False`):
            Whether special tokens ([CLS] and the like) are among the tokens aligned, in the mean of `"sentence"`, and
            anchored. Dr.DECR is `"greedy"` with `True` and uniform marginals.
        anchor_weight (`float`, defaults to 0):
            Weight of a term that keeps the student's vectors of English text where they were before training
            (cosine distance, token by token). 0 turns it off. It reads twice as many sentences a step.
        train_all_weights (`bool`, defaults to `False`):
            Train the whole student instead of a LoRA adapter.
        new_words (`int`, *optional*, defaults to 8000):
            Most words that a pack adds to the student's vocabulary, see [`learn_vocabulary`]; 0, and the default with
            `train_all_weights`, adds none.
        lora_rank (`int`, defaults to 32), lora_alpha (`float`, defaults to the rank), lora_dropout (`float`,
            defaults to 0), lora_targets (`list[str]`, *optional*), lora_embeddings (`bool`, defaults to `True`):
            The adapter, as in [`default_lora_config`]. Where words are added, the word embeddings are not adapted.
        disable_dropout (`bool`, defaults to `True`):
            Turn off the student's own dropout while it trains: what it learns from is exact.

    Defaults that differ from `TrainingArguments`: `output_dir` is `outputs/LANGUAGE`, `learning_rate` 2e-3 (1e-4 with
    `train_all_weights`), `warmup_steps` 0.05, `per_device_train_batch_size` 32, `logging_steps` 20, `eval_strategy`
    and `save_strategy` `"epoch"`, `save_total_limit` 2, `hub_strategy` `"end"`.
    `eval_do_concat_batches`, `batch_eval_metrics` and `include_for_metrics` are refused: they are for metrics of one's
    own. `dataloader_drop_last` holds for training alone.
    """

    learning_rate: float | None = field(
        default=None, metadata={"help": "Initial learning rate. Default: 2e-3 for LoRA, 1e-4 for all weights."}
    )
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of linear warm-up, or their ratio if below 1."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Sentence pairs a device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Sentence pairs a device at evaluation."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logs, or their ratio if below 1."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: 'no', 'steps' or 'epoch'."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: 'no', 'steps', 'epoch' or 'best'."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push: only 'end' is allowed."})
    # The columns of bitext are for the collator; the model's signature says nothing about them.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Left at False: the collator needs them."})
    ddp_find_unused_parameters: bool | None = field(
        default=None,
        metadata={"help": "Default: whether there are several packs, of which a step leaves some without gradient."},
    )

    language: list[str] | None = field(
        default=None, metadata={"help": "Code of the language to teach, e.g. 'ha', or several."}
    )
    shared_pack: str | None = field(
        default=None, metadata={"help": "Code of one pack for all languages. Default: a pack for each."}
    )
    sampling_temperature: float = field(
        default=1.0, metadata={"help": "Above 1, languages with few pairs are seen more often than they come."}
    )
    teacher_language: str = field(default="en", metadata={"help": "Code of the language that the teacher reads."})
    cache_teacher: bool | None = field(
        default=None, metadata={"help": "Keep the teacher's vectors on disk. Default: with more than one epoch."}
    )
    teacher_cache_dir: str | None = field(
        default=None, metadata={"help": "Where to keep them. Default: the cache folder of `datasets`."}
    )
    method: str = field(default="ot", metadata={"help": "What is learned from.", "choices": list(_METHODS)})
    side: str = field(
        default="query",
        metadata={"help": "As what sentences are read.", "choices": list(_ROLES)},
    )
    switch_probability: float = field(
        default=0.5, metadata={"help": "Probability that a word is switched, with code switching."}
    )
    switch_side: str = field(
        default="query", metadata={"help": "What words are switched in.", "choices": list(_ROLES)}
    )
    dictionary: list[str] | None = field(
        default=None, metadata={"help": "MUSE dictionaries to switch by. Default: learned from the sentence pairs."}
    )
    ranking_target: str = field(
        default="teacher", metadata={"help": "What the ranking is to be.", "choices": list(_TARGETS)}
    )
    ranking_temperature: float = field(default=0.2, metadata={"help": "Temperature of the scores ranked by."})
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking beside transport and anchor."})
    alternate: bool = field(
        default=False, metadata={"help": "With --method hybrid: transport and ranking in turns, step by step."}
    )
    solver: str = field(default="sinkhorn", metadata={"help": "Transport solver, see `transport_plan`."})
    epsilon: float = field(default=0.01, metadata={"help": "Entropic regularisation of the transport plan."})
    max_iterations: int = field(default=100, metadata={"help": "Most iterations of the transport solver."})
    tolerance: float = field(default=1e-3, metadata={"help": "Marginal error at which the transport solver stops."})
    marginal_penalty: float = field(
        default=1.0, metadata={"help": "What it costs to leave a token out, with --solver unbalanced."}
    )
    transported_mass: float = field(
        default=0.8, metadata={"help": "Part of the tokens' mass that is aligned, with --solver partial."}
    )
    marginals: str = field(
        default="idf", metadata={"help": "What each token counts for, if aligned.", "choices": list(_MARGINALS)}
    )
    align_special_tokens: bool = field(default=False, metadata={"help": "Whether special tokens are aligned too."})
    anchor_weight: float = field(
        default=0.0, metadata={"help": "Weight of the term that keeps the student's English where it was."}
    )
    train_all_weights: bool = field(default=False, metadata={"help": "Train all weights instead of a LoRA adapter."})
    new_words: int | None = field(
        default=None,
        metadata={"help": "Most words to add to the vocabulary. Default: 8000, and none with --train_all_weights."},
    )
    lora_rank: int = field(default=32, metadata={"help": "Rank of the LoRA adapter."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Scale of the adapter. Default: its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapter."})
    lora_targets: list[str] | None = field(
        default=None,
        metadata={"help": "Modules to adapt. Default: every linear layer the token vectors pass through."},
    )
    lora_embeddings: bool = field(default=True, metadata={"help": "Whether the word embeddings are adapted too."})
    disable_dropout: bool = field(default=True, metadata={"help": "Turn off the student's own dropout."})

    def __post_init__(self):
        self._check_languages()
        choices = {
            "method": _METHODS,
            "side": _ROLES,
            "marginals": _MARGINALS,
            "switch_side": _ROLES,
            "ranking_target": _TARGETS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        self._check_method()
        if self.anchor_weight < 0:
            raise ValueError(f"anchor_weight={self.anchor_weight} is negative; pass 0 to turn the anchor off")
        if self.new_words is None:
            self.new_words = 0 if self.train_all_weights else 8000
        if self.new_words < 0 or (self.new_words and self.train_all_weights):
            raise ValueError(f"new_words={self.new_words} needs to be 0 or more, and 0 with train_all_weights")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop the sentences; leave it at False")
        for name, left in _METRICS.items():
            if getattr(self, name) != left:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for metrics of one's own, and this trainer has but the mean; "
                    f"leave it at {left!r}"
                )
        if HubStrategy(self.hub_strategy) != HubStrategy.END:
            raise ValueError(
                f"hub_strategy={self.hub_strategy!r} would publish `training_args.bin`, a pickle that holds the Hub "
                "token; leave it at 'end'"
            )
        if self.output_dir is None:
            self.output_dir = os.path.join("outputs", self.shared_pack or "-".join(self.languages))
        if self.learning_rate is None:
            self.learning_rate = 1e-4 if self.train_all_weights else 2e-3
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = len(self.packs) > 1
        if self.cache_teacher is None:
            one_machine = os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE")
            self.cache_teacher = self.num_train_epochs > 1 and self.max_steps <= 0 and one_machine
        check_strategy(self.train_all_weights)
        # Pinned memory speeds up copies to an accelerator; without one, torch only warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        super().__post_init__()
        if self.accelerator_config and not self.accelerator_config.use_seedable_sampler:
            raise ValueError(
                "accelerator_config={'use_seedable_sampler': False} would show a run that is resumed other sentence "
                "pairs; leave it at True"
            )

    def _check_languages(self) -> None:
        if not self.language:
            raise ValueError("language is not set; pass the code of the language to teach, e.g. language='ha'")
        for code in (*self.languages, *self.packs):
            adapter_name(code)
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"language={self.language} names a language twice; name each once")
        if self.teacher_language in (*self.languages, self.shared_pack):
            raise ValueError(
                f"{self.teacher_language!r} is the teacher's language; name another as language or shared_pack"
            )
        if self.shared_pack and self.train_all_weights:
            raise ValueError(f"shared_pack={self.shared_pack!r} names a pack, and train_all_weights makes none")
        if not self.sampling_temperature > 0:
            raise ValueError(f"sampling_temperature={self.sampling_temperature} is not above 0; pass 1 or more")
        if len(self.languages) > 1:
            if self.train_sampling_strategy not in _STRATEGIES:
                raise ValueError(
                    f"train_sampling_strategy={self.train_sampling_strategy!r} would mix languages in a batch; with "
                    f"several languages choose one of {', '.join(_STRATEGIES)}"
                )
            if self.dataloader_persistent_workers:
                raise ValueError(
                    "dataloader_persistent_workers would evaluate every language on the pairs of the first; leave it "
                    "at False"
                )

    def _check_method(self) -> None:
        if not 0 <= self.switch_probability <= 1:
            raise ValueError(f"switch_probability={self.switch_probability} is no probability; pass 0 to 1")
        if not self.ranking_weight > 0:
            raise ValueError(f"ranking_weight={self.ranking_weight} is not above 0; for 0 choose method='ot'")
        if not self.ranking_temperature > 0:
            raise ValueError(f"ranking_temperature={self.ranking_temperature} is not above 0; pass 0.2 or the like")
        if self.alternate and self.method != "hybrid":
            raise ValueError(f"alternate needs two methods to alternate, and method is {self.method!r}; pass 'hybrid'")
        if self.dictionary is not None and not self.ranks:
            raise ValueError(
                f"dictionary is for code switching, and method is {self.method!r}; pass 'code_switch' or 'hybrid'"
            )
        if self.dictionary is not None and len(self.dictionary) != len(self.languages):
            raise ValueError(
                f"dictionary names {len(self.dictionary)} files for {len(self.languages)} languages; pass one for each"
            )

    @property
    def aligns(self) -> bool:
        """Whether the method aligns sentences with their translations."""
        return self.method != "code_switch"

    @property
    def ranks(self) -> bool:
        """Whether the method ranks code-switched text."""
        return self.method in ("code_switch", "hybrid")

    @property
    def languages(self) -> list[str]:
        """The languages to teach."""
        return [self.language] if isinstance(self.language, str) else list(self.language)

    @property
    def packs(self) -> dict[str, list[str]]:
        """Every pack to train and the languages in it; none where all weights are trained."""
        if self.train_all_weights:
            return {}
        return {self.shared_pack: self.languages} if self.shared_pack else {code: [code] for code in self.languages}

    def pack_of(self, language: str) -> str:
        """The pack that a language is in."""
        return self.shared_pack or language

    def folder_of(self, pack: str, output_dir: str | os.PathLike | None = None) -> Path:
        """Where a pack is saved: several have a folder each."""
        folder = Path(output_dir or self.output_dir)
        return folder / pack if len(self.packs) > 1 else folder

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles in which every sentence is aligned."""
        return _ROLES[self.side]
