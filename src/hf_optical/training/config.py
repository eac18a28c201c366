from __future__ import annotations

import os
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from ..checks import check_choice, check_number
from ..languages.adapters import adapter_name
from ..languages.strength import STRONGEST
from ..methods import AlignmentSettings, AnchorSettings, CodeSwitchSettings, method_classes, method_names
from ..options import option
from .distributed import check_strategy


# Sampling strategies that keep a batch in one language.
_STRATEGIES = ("random", "group_by_length")
# Training on more sentences than these (63 steps) makes packs worse on questions about other topics. Studies keep both
# numbers in their keys.
ENOUGH_SENTENCES, MOST_EPOCHS = 2000, 3
# Settings of Trainer with a fixed value, and the reason.
_FIXED = {
    "remove_unused_columns": (False, "the collator needs the sentences"),
    "hub_strategy": ("end", "others would publish `training_args.bin`, a pickle that contains the Hub token"),
    # The only prediction is the cost of every pair.
    "eval_do_concat_batches": (True, "custom metrics are not supported"),
    "batch_eval_metrics": (False, "custom metrics are not supported"),
    "include_for_metrics": ([], "custom metrics are not supported"),
    "label_smoothing_factor": (0.0, "there are no labels"),
}


def default_epochs(sentences: int) -> float:
    """Passes over the sentences of a pack, by their number."""
    return float(min(max(round(ENOUGH_SENTENCES / max(sentences, 1)), 1), MOST_EPOCHS))


@dataclass(repr=False)  # TrainingArguments' own hides the Hub token
class OTDistillationConfig(AlignmentSettings, CodeSwitchSettings, AnchorSettings, TrainingArguments):
    r"""
    Settings of [`OTDistillationTrainer`]: those of [`~transformers.TrainingArguments`] and the ones below.

    Args:
        language (`str` or `list[str]`, *optional*):
            Code of the language to teach; it names the pack. Several codes train several packs in one run, one for
            each language. Required.
        shared_pack (`str`, *optional*): Code of one pack for all languages, instead of one for each.
        sampling_temperature (`float`, defaults to 1.0):
            With several languages: one with `n` pairs and switched sentences gets batches in proportion to
            `n ** (1 / sampling_temperature)` (arXiv 1907.05019). 1 samples in proportion to size; higher values favour
            small languages.
        fit_projection (`bool`, *optional*):
            Whether the student is given a projection into the space of the teacher, fitted in closed form on the
            English sentences before training ([`~hf_optical.model.mapping.fit_map`]). By default, if their
            vectors differ in size, or are not alike for the same English words. It is part of the packs.
        teacher_language (`str`, defaults to `"en"`): Code of the language that the teacher reads.
        cache_teacher (`bool`, *optional*):
            Whether the teacher encodes every sentence once, before training, and its vectors are kept on disk for
            later epochs, languages and runs ([`TeacherVectors`]). Defaults to `True` for more than one epoch on one
            machine.
        teacher_cache_dir (`str`, *optional*): Folder of this cache. Defaults to the cache folder of `datasets`.
        method (`str`, defaults to `"ot"`):
            Training objective. `"ot"`: transport from the tokens of a sentence to those of its translation
            ([`OTAlignmentLoss`]). `"greedy"`: one-to-one alignment ([`GreedyAlignmentLoss`], Dr.DECR). `"sentence"`:
            mean vectors ([`SentenceMSELoss`]). `"code_switch"`: ranking of English texts with words of the new
            language switched in, as the teacher ranks them in English ([`CodeSwitch`]); the translations serve for
            words only. `"ranking"`: the sentences of the batch, ranked as the teacher ranks them for the translation
            ([`PairRanking`]). `"hybrid"`: `"ot"` and `"code_switch"`. `"ot_ranking"`: `"ot"` and `"ranking"`. Or the
            name of your own [`Method`].
        alternate (`bool`, defaults to `False`):
            With several methods (`"hybrid"`, `"ot_ranking"`): take them in turns, one a step, instead of all in every
            step.
        side (`str`, defaults to `"query"`):
            Role in which the sentences are encoded: `"query"`, `"document"` or `"both"`.
        align_special_tokens (`bool`, defaults to `False`):
            Whether special tokens ([CLS] and the like) are among the tokens aligned, in the mean of `"sentence"`, and
            anchored. Dr.DECR is `"greedy"` with `True` and uniform marginals.
        marginals (`str`, defaults to `"idf"`):
            Weights of the tokens: `"uniform"`, or `"idf"`, inverse document frequency over the training sentences
            ([`inverse_document_frequency`]). In the transport these are the marginals; `"greedy"` weighs aligned
            tokens by them, `"sentence"` the tokens of a mean. `"code_switch"` has no use for them.
        center_costs (`bool`, defaults to `True`):
            Whether the mean of the teacher's vectors is subtracted from those of both sides before they are aligned
            ([`Geometry`]). The vectors of the index are not changed. `"sentence"` has no use for it.
        solver (`str`, defaults to `"sinkhorn"`), epsilon (`float`, *optional*), max_iterations (`int`, defaults
            to 100), tolerance (`float`, defaults to 1e-3), marginal_penalty (`float`, defaults to 1.0),
            transported_mass (`float`, defaults to 0.8):
            The transport problem, as in [`transport_plan`]. By default, epsilon is 0.053 of the spread of the costs
            between the teacher's own tokens ([`Geometry`]), which is 0.01 for all-MiniLM-L6-v2.
        switch_probability (`float`, defaults to 0.5), switch_side (`str`, defaults to `"query"`):
            The probability that a known word of an English text is switched. And with code switching the texts:
            `"query"`, `"document"` or `"both"`. Documents that are not switched are read by the teacher, like those of
            the index. A query and a document with the same words are switched independently. The result depends on the
            text and the seed alone, so it is the same in every epoch.
        dictionary (`str` or `list[str]`, *optional*):
            Dictionaries in MUSE's format, from the new language to English or the other way round
            ([`read_entries`]). One language may have several; of several languages each has one. Their words join the
            vocabulary ([`learn_vocabulary`]), with sentence pairs or without; code switching switches by them,
            in place of a dictionary learned from the pairs ([`learn_dictionary`]).
        switched_sentences (`int`, defaults to 4000):
            Most sentences of `english_texts`, such as the documents to search, that are trained on beside the sentence
            pairs or without any: the student reads them with words switched into the language
            (`switch_probability`), the teacher as they are.
        ranking_target (`str`, defaults to `"teacher"`), ranking_temperature (`float`, defaults to 0.2):
            The ranking to learn: the teacher's scores, or with `"labels"` the relevant document first; see
            [`RankingLoss`]. The documents are those of the batch, so this loss depends on the batch size of a device,
            in training and at evaluation (`eval_loss`).
        ranking_weight (`float`, defaults to 1.0):
            Weight of the ranking next to the other parts of the loss: the transported cost, with `"hybrid"`, and the
            anchor.
        noise_weight (`float`, defaults to 0), noise_strength (`float`, defaults to 0.2):
            Weight of a mistyped copy of each sentence, which the student reads in addition and which is aligned with
            the same vectors of the teacher; and the largest share of letters that are mistyped ([`Mistyper`]). It
            doubles the number of sentences that the student reads per step. For the methods that align.
        anchor_weight (`float`, defaults to 0):
            Weight of a term that keeps the student's vectors of English text where they were before training
            (cosine distance, token by token). 0 turns it off. It doubles the number of sentences read per step.
        keep_misaligned (`bool`, defaults to `False`):
            Whether to train on sentence pairs whose sentences are probably no translations of each other
            ([`rank_by_cost`]). By default a pack that learns by alignment leaves them out, if there are more than 3 %.
        train_all_weights (`bool`, defaults to `False`): Train the whole student instead of a LoRA adapter.
        rows_from_text (`bool`, defaults to `False`):
            Whether words of plain text in the language (`monolingual_texts`) that the pairs and dictionaries never
            showed get rows ([`learn_from_text`]), for which gensim is needed. By default they repair typing errors.
        init_pack (`str`, *optional*):
            Folder or Hub id of the pack of a related language to start from: its adapter, and its rows of words that
            the new language has no evidence of. It must have the same base. Its adapter has a rank and targets of its
            own, so `lora_rank` and the like have no effect.
        new_words (`int`, *optional*, defaults to 8000):
            Maximum number of words that a pack adds to the student's vocabulary, see [`learn_vocabulary`]; 0 with
            `train_all_weights`.
        choose_words (`bool`, defaults to `True`):
            Whether none are added if the base reads the language as well in pieces
            ([`~hf_optical.training.word_choice.choose_words`]). It takes 200 sentence pairs or more to find out.
        lora_rank (`int`, defaults to 32), lora_alpha (`float`, defaults to the rank), lora_dropout (`float`,
            defaults to 0), lora_targets (`list[str]`, *optional*), lora_embeddings (`bool`, defaults to `True`):
            The adapter, as in [`default_lora_config`]. If words are added, the word embeddings are not adapted.
        strength (`float`, *optional*):
            Strength of the finished pack ([`set_strength`]), with which it is evaluated. Steps of training always
            apply the whole adapter. Defaults to 0.5 where the base finds most translations among held-out pairs by
            itself ([`~hf_optical.training.word_choice.choose_words`]), else to 1.
        evaluate_on_pairs (`bool`, defaults to `True`):
            Whether a language without a `retrieval_evaluator` is evaluated by search among its held-out sentence
            pairs: the sentence in the new language is the question, its translation the document to find.
        disable_dropout (`bool`, defaults to `True`):
            Turn off the student's own dropout during training, since its targets are exact.

    Defaults that differ from `TrainingArguments`: `output_dir` is `outputs/LANGUAGE`, `learning_rate` 2e-3 (1e-4 with
    `train_all_weights`), `num_train_epochs` 3, but 2 from 800 sentences a pack on and 1 from 1,334 on (3 with
    `train_all_weights`), `warmup_steps` 0.05, `per_device_train_batch_size` 32, `logging_steps` 20,
    `eval_strategy` and `save_strategy` `"epoch"`, `save_total_limit` 2, `hub_strategy` `"end"`.
    `eval_do_concat_batches`, `batch_eval_metrics` and `include_for_metrics` are refused: custom metrics are not
    supported. `dataloader_drop_last` applies to training only.
    """

    if TYPE_CHECKING:
        # After `__post_init__`.
        output_dir: str = ""
        accelerator_config: Any = None

    num_train_epochs: float | None = option(  # type: ignore[assignment]
        None, "Passes over the sentences, pairs and English ones. Default: 3, 2 from 800 on, and 1 from 1,334 on."
    )
    learning_rate: float | None = option(None, "Initial learning rate. Default: 2e-3 for LoRA, 1e-4 for all weights.")  # type: ignore[assignment]
    warmup_steps: float = option(0.05, "Steps of linear warm-up, or their ratio if below 1.")
    per_device_train_batch_size: int = option(32, "Sentence pairs a device and step.")
    per_device_eval_batch_size: int = option(64, "Sentence pairs a device at evaluation.")
    logging_steps: float = option(20, "Steps between two logs, or their ratio if below 1.")
    eval_strategy: str = option("epoch", "When to evaluate: 'no', 'steps' or 'epoch'.")
    save_strategy: str = option("epoch", "When to save: 'no', 'steps', 'epoch' or 'best'.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")
    hub_strategy: str = option("end", "When to push: only 'end' is allowed.")
    # Trainer would keep only the columns in the model's signature.
    remove_unused_columns: bool = option(False, "Must stay False: the collator needs all columns.")
    ddp_find_unused_parameters: bool | None = option(
        None, "Default: True with several packs, since a step leaves some without gradient."
    )

    language: list[str] | None = option(None, "Code of the language to teach, e.g. 'ha', or several.")
    shared_pack: str | None = option(None, "Code of one pack for all languages. Default: a pack for each.")
    sampling_temperature: float = option(1.0, "Values above 1 favour languages with few pairs.")
    teacher_language: str = option("en", "Code of the language that the teacher reads.")
    fit_projection: bool | None = option(
        None, "Fit a projection of the student into the teacher's space. Default: if their spaces differ."
    )
    cache_teacher: bool | None = option(None, "Keep the teacher's vectors on disk. Default: with more than one epoch.")
    teacher_cache_dir: str | None = option(None, "Folder of this cache. Default: the cache folder of `datasets`.")
    method: str = option("ot", "Training objective.", method_names())
    alternate: bool = option(False, "With --method hybrid or ot_ranking: take transport and ranking in turns.")
    keep_misaligned: bool = option(False, "Train on sentence pairs that are probably no translations too.")
    train_all_weights: bool = option(False, "Train all weights instead of a LoRA adapter.")
    dictionary: list[str] | None = option(
        None, "Dictionaries of the new language and English, in MUSE's format; with or without sentence pairs."
    )
    switched_sentences: int = option(
        4000, "Most sentences of the English texts to read with words switched, beside the sentence pairs."
    )
    rows_from_text: bool = option(False, "Learn rows for words of --monolingual_file that nothing else taught.")
    init_pack: str | None = option(None, "Folder or Hub id of a related language's pack to start from.")
    new_words: int | None = option(
        None, "Maximum number of words to add to the vocabulary. Default: 8000, or 0 with --train_all_weights."
    )
    choose_words: bool = option(True, "Add no words if the base reads the language as well in pieces.")
    lora_rank: int = option(32, "Rank of the LoRA adapter.")
    lora_alpha: float | None = option(None, "Scale of the adapter. Default: its rank.")
    lora_dropout: float = option(0.0, "Dropout in front of the adapter.")
    lora_targets: list[str] | None = option(
        None, "Modules to adapt. Default: every linear layer the token vectors pass through."
    )
    lora_embeddings: bool = option(True, "Whether the word embeddings are adapted too.")
    strength: float | None = option(
        None,
        "Share of the adapter that the pack applies, 0 to 2. Default: 0.5 if the base reads the language, else 1.",
    )
    evaluate_on_pairs: bool = option(
        True, "Search among the held-out sentence pairs if a language has no retrieval set."
    )
    disable_dropout: bool = option(True, "Turn off the student's own dropout.")

    def __post_init__(self) -> None:
        self._check_languages()
        self._check_method()
        if self.new_words is None:
            self.new_words = 0 if self.train_all_weights else 8000
        check_number("strength", 1.0 if self.strength is None else self.strength, at_least=0, at_most=STRONGEST)
        check_number("switched_sentences", self.switched_sentences, at_least=0, cure="pass 0 for none")
        check_number("new_words", self.new_words, at_least=0, at_most=0 if self.train_all_weights else None)
        self._check_dictionary()
        for name, (value, reason) in _FIXED.items():
            check_choice(name, getattr(self, name), [value], f"since {reason}")
        if self.output_dir is None:
            self.output_dir = os.path.join("outputs", self.shared_pack or "-".join(self.languages))
        if self.learning_rate is None:
            self.learning_rate = 1e-4 if self.train_all_weights else 2e-3
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = len(self.packs) > 1
        if self.num_train_epochs is None and (self.max_steps > 0 or self.train_all_weights):
            self.num_train_epochs = 3.0
        if self.num_train_epochs is not None:
            self._settle_cache()
        check_strategy(self.train_all_weights)
        # Pinned memory speeds up copies to an accelerator; without one, torch only warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        super().__post_init__()
        if self.device.type == "cpu":
            check_choice("fp16", self.fp16, [False], "since a CPU has no fp16 training; use bf16")
        if self.accelerator_config and not self.accelerator_config.use_seedable_sampler:
            raise ValueError("use_seedable_sampler must be True, or a resumed run would see other sentence pairs")

    def settle_length(self, pairs: Mapping[str, Sized], trained: bool = True) -> None:
        """
        Set `num_train_epochs`, if it is not set, by the sentences that a pack is trained on.

        If nothing is to be `trained`, the run has no step.
        """
        if not trained:
            self.max_steps, self.num_train_epochs = -1, 0.0
        if self.num_train_epochs is None:
            self.num_train_epochs = default_epochs(sum(map(len, pairs.values())) // max(len(self.packs), 1))
        self._settle_cache()

    def _settle_cache(self) -> None:
        if self.cache_teacher is None:
            one_machine = os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE")
            several = (self.num_train_epochs or 0.0) > 1 and self.max_steps <= 0
            self.cache_teacher = several and one_machine

    def _check_languages(self) -> None:
        if not self.language:
            raise ValueError("language is not set; pass the code of the language to teach, e.g. language='ha'")
        for code in (*self.languages, *self.packs):
            adapter_name(code)
        codes = [self.teacher_language, *self.languages]
        if len({*codes}) < len(codes) or self.shared_pack == self.teacher_language:
            raise ValueError(
                f"language, shared_pack and teacher_language must be different codes, got language={self.languages}, "
                f"shared_pack={self.shared_pack!r}, teacher_language={self.teacher_language!r}"
            )
        if self.train_all_weights:
            without_pack: dict[str, Any] = {"shared_pack": None, "init_pack": None, "strength": None}
            without_pack["rows_from_text"] = False
            for name, value in without_pack.items():
                check_choice(name, getattr(self, name), [value], "since train_all_weights trains no pack")
        if self.init_pack is not None:
            check_choice("fit_projection", self.fit_projection, [None, False], "since it is that of init_pack")
        check_number("sampling_temperature", self.sampling_temperature, above=0)
        if len(self.languages) > 1:
            reason = "since a batch, and an evaluation, must be in one language"
            check_choice("train_sampling_strategy", self.train_sampling_strategy, _STRATEGIES, reason)
            check_choice("dataloader_persistent_workers", self.dataloader_persistent_workers, [False], reason)

    def _check_method(self) -> None:
        check_choice("method", self.method, method_names())
        for settings in (AlignmentSettings, CodeSwitchSettings, AnchorSettings):
            settings.check_settings(self)
        methods = method_classes(self.method)
        if len(methods) < 2:
            check_choice("alternate", self.alternate, [False], f"since method={self.method!r} is only one method")

    def _check_dictionary(self) -> None:
        if self.dictionary is None:
            return
        if isinstance(self.dictionary, (str, os.PathLike)):
            self.dictionary = [os.fspath(self.dictionary)]
        if len(self.languages) > 1:
            check_choice(
                "number of files in dictionary", len(self.dictionary), [len(self.languages)], "one a language"
            )

    @property
    def languages(self) -> list[str]:
        """The languages to teach."""
        return [self.language] if isinstance(self.language, str) else list(self.language or ())

    @property
    def sampling_seed(self) -> int:
        """The seed by which sentence pairs are drawn and held out: `data_seed`, or `seed` if it is not set."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def dictionary_files(self) -> dict[str, list[str]]:
        """Language -> its dictionaries; empty without any."""
        files = self.dictionary or []
        if len(self.languages) == 1:
            return {self.languages[0]: files} if files else {}
        return {language: [file] for language, file in zip(self.languages, files, strict=False)}

    @property
    def packs(self) -> dict[str, list[str]]:
        """Pack -> the languages in it; empty if all weights are trained."""
        if self.train_all_weights:
            return {}
        return {self.shared_pack: self.languages} if self.shared_pack else {code: [code] for code in self.languages}

    def pack_of(self, language: str) -> str:
        """The pack of a language."""
        return self.shared_pack or language

    def folder_of(self, pack: str, output_dir: str | os.PathLike | None = None) -> Path:
        """The folder in which a pack is saved: several have one each."""
        folder = Path(output_dir or self.output_dir)
        return folder / pack if len(self.packs) > 1 else folder
