from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from .distributed import check_strategy


_MARGINALS = ("uniform", "idf")
_ROLES = {"query": ("query",), "document": ("document",), "both": ("query", "document")}


@dataclass
class OTDistillationConfig(TrainingArguments):
    r"""
    Settings of [`OTDistillationTrainer`]: those of [`~transformers.TrainingArguments`] and the ones below.

    Args:
        language (`str`, *optional*):
            Code of the language to teach; it names the pack. Required.
        teacher_language (`str`, defaults to `"en"`):
            Code of the language that the teacher reads.
        side (`str`, defaults to `"query"`):
            As what the sentences are read: `"query"`, `"document"` or `"both"`.
        solver (`str`, defaults to `"sinkhorn"`), epsilon (`float`, defaults to 0.05), max_iterations (`int`, defaults
            to 100), tolerance (`float`, defaults to 1e-3), marginal_penalty (`float`, defaults to 1.0),
            transported_mass (`float`, defaults to 0.8):
            The transport problem, as in [`transport_plan`].
        marginals (`str`, defaults to `"idf"`):
            What each token counts for in the transport: `"uniform"`, or `"idf"`, the more the fewer training sentences
            hold it ([`inverse_document_frequency`]).
        align_special_tokens (`bool`, defaults to `False`):
            Whether special tokens ([CLS] and the like) are among the tokens aligned.
        anchor_weight (`float`, defaults to 0):
            Weight of a term that keeps the student's vectors of English text where they were before training
            (cosine distance, token by token). 0 turns it off. It reads twice as many sentences a step.
        train_all_weights (`bool`, defaults to `False`):
            Train the whole student instead of a LoRA adapter.
        new_words (`int`, *optional*, defaults to 8000):
            Most words of the language to add to the student's vocabulary, see [`learn_vocabulary`]; 0, and the default
            with `train_all_weights`, adds none.
        lora_rank (`int`, defaults to 32), lora_alpha (`float`, defaults to the rank), lora_dropout (`float`,
            defaults to 0), lora_targets (`list[str]`, *optional*), lora_embeddings (`bool`, defaults to `True`):
            The adapter, as in [`default_lora_config`]. Where words are added, the word embeddings are not adapted.
        disable_dropout (`bool`, defaults to `True`):
            Turn off the student's own dropout while it trains: what it learns from is exact.

    Defaults that differ from `TrainingArguments`: `output_dir` is `outputs/LANGUAGE`, `learning_rate` 1e-3 (1e-4 with
    `train_all_weights`), `warmup_steps` 0.05, `per_device_train_batch_size` 32, `logging_steps` 20, `eval_strategy`
    and `save_strategy` `"epoch"`, `save_total_limit` 2, `hub_strategy` `"end"`.
    """

    learning_rate: float | None = field(
        default=None, metadata={"help": "Initial learning rate. Default: 1e-3 for LoRA, 1e-4 for all weights."}
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
        default=False,
        metadata={"help": "Every trainable weight gets a gradient at every step, so no search is needed."},
    )

    language: str | None = field(default=None, metadata={"help": "Code of the language to teach, e.g. 'ha'."})
    teacher_language: str = field(default="en", metadata={"help": "Code of the language that the teacher reads."})
    side: str = field(
        default="query",
        metadata={"help": "As what sentences are read.", "choices": list(_ROLES)},
    )
    solver: str = field(default="sinkhorn", metadata={"help": "Transport solver, see `transport_plan`."})
    epsilon: float = field(default=0.05, metadata={"help": "Entropic regularisation of the transport plan."})
    max_iterations: int = field(default=100, metadata={"help": "Most iterations of the transport solver."})
    tolerance: float = field(default=1e-3, metadata={"help": "Marginal error at which the transport solver stops."})
    marginal_penalty: float = field(
        default=1.0, metadata={"help": "What it costs to leave a token out, with --solver unbalanced."}
    )
    transported_mass: float = field(
        default=0.8, metadata={"help": "Part of the tokens' mass that is aligned, with --solver partial."}
    )
    marginals: str = field(
        default="idf", metadata={"help": "What each token counts for in the transport.", "choices": list(_MARGINALS)}
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
        if not self.language:
            raise ValueError("language is not set; pass the code of the language to teach, e.g. language='ha'")
        if self.side not in _ROLES:
            raise ValueError(f"side={self.side!r}; choose one of {', '.join(_ROLES)}")
        if self.marginals not in _MARGINALS:
            raise ValueError(f"marginals={self.marginals!r}; choose one of {', '.join(_MARGINALS)}")
        if self.anchor_weight < 0:
            raise ValueError(f"anchor_weight={self.anchor_weight} is negative; pass 0 to turn the anchor off")
        if self.new_words is None:
            self.new_words = 0 if self.train_all_weights else 8000
        if self.new_words < 0 or (self.new_words and self.train_all_weights):
            raise ValueError(f"new_words={self.new_words} needs to be 0 or more, and 0 with train_all_weights")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop the sentences; leave it at False")
        if HubStrategy(self.hub_strategy) != HubStrategy.END:
            raise ValueError(
                f"hub_strategy={self.hub_strategy!r} would publish `training_args.bin`, a pickle that holds the Hub "
                "token; leave it at 'end'"
            )
        if self.output_dir is None:
            self.output_dir = os.path.join("outputs", self.language)
        if self.learning_rate is None:
            self.learning_rate = 1e-4 if self.train_all_weights else 1e-3
        check_strategy(self.train_all_weights)
        # Pinned memory speeds up copies to an accelerator; without one, torch only warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        super().__post_init__()

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles in which every sentence is read."""
        return _ROLES[self.side]
