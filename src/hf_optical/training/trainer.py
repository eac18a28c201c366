from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import speed_metrics

from ..evaluation import RetrievalEvaluator
from ..evaluation.results import over_languages
from ..languages import LanguagePack, activate, active_language, set_strength, strength_of
from ..methods import Alignment, Method, make_methods, turns
from ..model import OpticalModel, OpticalOutput, OpticalProcessor
from .checkpoints import InitialState, ResumableTrainer
from .config import OTDistillationConfig
from .distributed import PairMeans, from_main_process, pair_weights
from .forward import check_finite, read_batch
from .loading import PairLoadingTrainer
from .pairs import pairs_by_language
from .plain_text import log_unknown_words
from .publishing import create_repositories, push_run, write_run_card
from .record import measure
from .report import measure_references
from .sampling import join_languages
from .setup import check_optimizers, prepare_run
from .teacher import cache_teacher


# Arguments of Trainer that this trainer makes itself -> what to do instead.
_CURES = {
    "data_collator": "to read other texts, pass a Method with its own reader",
    "compute_metrics": "pass a retrieval_evaluator, whose measures become metrics",
    "compute_loss_func": "pass loss, or override pair_losses",
    "model_init": "hyperparameter_search needs none and starts every trial from the same weights",
    "tokenizer": "pass processing_class",
}


class OTDistillationTrainer(PairLoadingTrainer, ResumableTrainer):
    r"""
    Teach a student new languages from sentence pairs.

    The student reads the new language, a frozen teacher reads the English, and the loss is the cost of transporting
    the student's token vectors onto the teacher's (OPTICAL-style, arXiv 2301.12566), or that of another [`Method`].

    Several languages are taught in turns, each batch in one of them ([`LanguageSampler`]), and each language trains
    its own pack or all share one. Training one pack changes no other.

    Everything else is [`~transformers.Trainer`]: accumulation, mixed precision, activation checkpointing, several
    processes, logging, resuming.

    To change the loss, override [`~OTDistillationTrainer.pair_losses`]; every part it returns is added to the loss
    and logged under its name. For another objective, subclass [`Method`] and pass it as `method`.

    Args:
        model (`str` or [`OpticalModel`]): The student, or its folder or Hub id.
        teacher (`str` or [`OpticalModel`]):
            The teacher. Its tokenizer, architecture and vector size may differ: the student is then given a projection
            into its space ([`~hf_optical.model.mapping.fit_map`]). If it is the student itself, it is copied.
        args ([`OTDistillationConfig`]): The settings. They are copied, since some depend on the data.
        train_dataset (`datasets.Dataset`), eval_dataset (`datasets.Dataset`, *optional*):
            Sentence pairs in any form that [`load_bitext`] takes. For several languages a `dict`: language -> pairs.
            With `max_steps`, `train_dataset` may also be a stream (`datasets.IterableDataset`): vocabulary and weights
            are then learned from its first 20,000 pairs.
        processing_class ([`OpticalProcessor`], *optional*), teacher_processing_class ([`OpticalProcessor`],
            *optional*):
            The processors of student and teacher. By default opened with the models.
        retrieval_evaluator ([`RetrievalEvaluator`], *optional*):
            Questions and passages to search at every evaluation; its measures become `eval_map` and so on, for
            `metric_for_best_model` and early stopping. For several languages a `dict`: language -> evaluator; they
            need no `eval_dataset` of the same languages. Languages without one are evaluated by search among their
            held-out sentence pairs.
        peft_config (`peft.LoraConfig`, *optional*):
            The adapter of every pack, in place of the one that `args` describes.
        method ([`Method`], its class, or a list of methods, *optional*):
            The training objective, in place of `args.method`.
        loss (`nn.Module`, *optional*):
            Used in place of the method's alignment loss; called like a [`PairLoss`], with `reduction="none"` set.
        english_texts (sequence of `str`, *optional*):
            Texts in the teacher's language, best the documents to search. Their sentences are trained on beside the
            pairs: the student reads them with words switched into the language, by `args.dictionary` and what word
            alignment learns from the pairs, the teacher as they are. With a dictionary and without `train_dataset`
            they are all that is trained on.
        triples (`datasets.Dataset`, *optional*):
            With code switching: English queries and documents to rank, from [`load_triples`]. By default the English
            sentences of the pairs. Each sentence pair gets one, the same in every epoch, so the number of steps stays
            the same.
        monolingual_texts (sequence of `str`, *optional*):
            Plain text in the new language; for several a `dict`: language -> texts. Its words repair typing errors,
            and with `rows_from_text`, those that the pairs and dictionaries never showed get rows.
        callbacks (`list[transformers.TrainerCallback]`, *optional*): As in [`~transformers.Trainer`].
        optimizers (`tuple`, defaults to `(None, None)`):
            Optimizer and schedule for the weights of an open `model`, with `train_all_weights`. The weights of a pack
            are created here: to train them otherwise set `args.optim`, or override `create_optimizer`.

    Attributes:
        methods (`list[Method]`): The training objectives; `anchor_weight` adds one.
        processors (`dict[str, OpticalProcessor]`):
            Language -> its processor, with the new words of its pack. With several packs, `processing_class` is the
            processor of the base.
        references (`dict[str, dict]`), details (`dict[str, dict]`):
            For the cards. `"zero_shot"` and `"ceiling"` -> language -> measure -> value: results of the untrained
            student, and of the teacher on human translations. And language -> what else a card should say (`bitext`,
            `bitext_license`, `license`, `note`, ...), as in [`write_card`].

    Raises:
        ValueError: vectors of different sizes and no sentences to fit a projection on, sentence pairs without the
            languages, a dictionary or triples that do not fit, an argument that the method has no use for,
            `optimizers` of other weights, or FSDP together with a `retrieval_evaluator`.
        FloatingPointError: while training, a loss that is not finite; the message names the pair.
        FileExistsError: while training, if another run is active in `output_dir`.
    """

    hub_model_id: Any
    model_init: Any

    # `compute_loss` returns the mean of one batch; Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | OpticalModel,
        teacher: str | OpticalModel,
        args: OTDistillationConfig,
        train_dataset: Dataset | dict[str, Dataset] | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: OpticalProcessor | None = None,
        teacher_processing_class: OpticalProcessor | None = None,
        retrieval_evaluator: RetrievalEvaluator | dict[str, RetrievalEvaluator] | None = None,
        peft_config: LoraConfig | None = None,
        method: Method | type[Method] | list[Method] | None = None,
        loss: nn.Module | None = None,
        triples: Dataset | None = None,
        english_texts: Sequence[str] | None = None,
        monolingual_texts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        **unsupported: Any,
    ):
        for name in unsupported:
            cure = _CURES.get(name, "see the arguments of OTDistillationTrainer")
            raise TypeError(f"{type(self).__name__} takes no {name}; {cure}")
        # The caller's settings may serve another run, and some of them are settled by the data of this one.
        args = copy.copy(args)
        args.accelerator_config = copy.copy(args.accelerator_config)
        self.methods = make_methods(args, method, loss)
        run = prepare_run(
            args,
            self.methods,
            model,
            teacher,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            teacher_processing_class=teacher_processing_class,
            retrieval_evaluator=retrieval_evaluator,
            peft_config=peft_config,
            triples=triples,
            english_texts=english_texts,
            monolingual_texts=monolingual_texts,
        )
        self.teacher, self.teacher_processor = run.teacher, run.teacher_processor
        self.base_processor, self.base_fingerprint = run.processor, run.base_fingerprint
        self.processors, self._strengths = run.processors, run.strengths
        self.retrieval_evaluators, self.run_record = run.evaluators, run.record
        # Means of training and of evaluation, and the weight of each pair in the batch.
        self._means = {True: PairMeans(), False: PairMeans()}
        self._pair_weights: Tensor | None = None
        # Trainer's constructor creates the repositories of a run that is to be pushed.
        self._repositories: dict[str, str] = {}
        super().__init__(
            model=run.student,
            args=args,
            data_collator=run.collator,
            train_dataset=run.train_dataset,
            eval_dataset=run.eval_dataset,
            processing_class=run.processor if len(args.packs) > 1 else run.processors[args.languages[0]],
            # Trainer then gathers the cost of every pair, whose mean is exact for any batch size.
            compute_metrics=lambda prediction: {"loss": float(prediction.predictions.mean())},
            callbacks=callbacks,
            optimizers=optimizers,
        )
        check_optimizers(self.model, *optimizers)
        if self.is_fsdp_enabled and self.retrieval_evaluators:
            raise ValueError(
                "retrieval_evaluator cannot search while training under FSDP, since no process holds the whole "
                "student; leave it out and evaluate the saved model"
            )
        self.teacher.to(self.accelerator.device)
        if not self.is_fsdp_enabled:
            self.retrieval_evaluators |= run.pair_evaluators
        for code in run.text_words.keys() & self.retrieval_evaluators.keys():
            log_unknown_words(self.retrieval_evaluators[code], code, run.processor, run.processors[code])

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        # `evaluate()` before `train()` leaves a mark that would make accelerate skip the distributed wrapper.
        if self.model_wrapped is self.model and hasattr(self.model, "_is_accelerate_prepared"):
            del self.model._is_accelerate_prepared
        self.run_record.forget_results()
        with self.running(resume_from_checkpoint) as checkpoint:
            if not (self.references or checkpoint or self.args.eval_strategy == "no"):
                measure_references(self)
            start = time.monotonic()
            self._cache_teacher(self.train_dataset, self.eval_dataset)
            with self._interrupt:
                output = super().train(checkpoint, *args, **kwargs)
        # The time that was spent before the checkpoint is unknown.
        self.run_record.seconds = None if checkpoint else time.monotonic() - start
        # Steps of training have another one.
        for pack, strength in self._strengths.items():
            set_strength(self.model, pack, strength)
        return output

    def _cache_teacher(self, *datasets: Dataset | dict[str, Dataset] | None) -> None:
        """Let the teacher encode the sentences that its cache lacks, if `cache_teacher` is set."""
        if self.args.cache_teacher:
            autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
            self.data_collator.teacher_vectors = cache_teacher(
                self.args, self.methods, self.teacher, self.teacher_processor, datasets, autocast
            )

    def set_language(self, language: str | None) -> None:
        """Activate the pack of a language in `model`; `None` leaves the base alone active."""
        pack = language and self.args.pack_of(language)
        if self.args.packs and active_language(self.model) != pack:
            activate(self.model, pack)

    def _set_strength(self, language: str) -> None:
        """Give the pack of a language the strength of a training step, or that of the finished pack."""
        if not self.args.packs:
            return
        pack = self.args.pack_of(language)
        strength = 1.0 if self.model.training else self._strengths[pack]
        if strength_of(self.model, pack) != strength:
            set_strength(self.model, pack, strength)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.set_language(inputs["language"])
        self._set_strength(inputs["language"])
        self._pair_weights = inputs.get("pair_weights")
        steps = turns(self.methods, self.args.alternate and self.model.training)
        methods = steps[self.state.global_step % len(steps)]
        read = read_batch(model, self.teacher, inputs, {name for method in methods for name in method.blocks})
        if "pairs" in read.student:
            check_finite(read.student["pairs"].embeddings.sum((1, 2)), inputs["index"], self.state.global_step)
        parts: dict[str, Tensor] = {}
        for method in methods:
            parts |= method.losses(read, self)
        self.record(**{f"loss_{name}": part for name, part in parts.items()})
        # One loss per role and pair -> one cost per pair.
        costs: Any = sum(part.view(-1, len(inputs["index"])).mean(0) for part in parts.values())
        check_finite(costs, inputs["index"], self.state.global_step)
        loss = (costs if self._pair_weights is None else costs * self._pair_weights).mean()
        return (loss, {"costs": costs}) if return_outputs else loss

    def pair_losses(self, student: OpticalOutput, teacher: OpticalOutput) -> dict[str, Tensor]:
        """
        Compute the parts of the loss of each sentence pair. Override this method to change the loss.

        Args:
            student ([`OpticalOutput`]): `embeddings` (pairs, student tokens, dim), `mask` and, unless marginals are
                uniform, `weights`, both (pairs, student tokens).
            teacher ([`OpticalOutput`]): the same for the teacher, without gradient.

        Returns:
            `dict[str, Tensor]`: name -> loss of shape `(pairs,)`.
        """
        alignment = next(method for method in self.methods if isinstance(method, Alignment))
        return alignment.pair_losses(student, teacher, self)

    def hyperparameter_search(self, *args, compute_objective=None, direction="maximize", **kwargs) -> Any:
        """
        As [`~transformers.Trainer.hyperparameter_search`]; by default maximises `eval_map`.

        Every trial starts from the weights that the trainer has now, so `model_init` is not needed, and settings that
        change the shape of a pack, such as `lora_rank` or `new_words`, cannot be searched.
        """
        model, start = self.model, InitialState(self.model, None, None)

        def restore() -> OpticalModel:
            start.restore()
            return model

        self.model_init = restore
        try:
            objective = compute_objective or (lambda metrics: metrics["eval_map"])
            kwargs |= {"compute_objective": objective, "direction": direction}
            return super().hyperparameter_search(*args, **kwargs)
        finally:
            self.model_init, self.model = None, restore()

    def _load_from_checkpoint(self, *args, **kwargs) -> None:
        super()._load_from_checkpoint(*args, **kwargs)
        if self.model.fitted:
            self.base_fingerprint = self.model.fingerprint()

    def _load_best_model(self) -> None:
        # The results are those of the last weights, not of the best ones; Trainer has no event for loading them.
        self.run_record.forget_results()
        super()._load_best_model()

    # Means over the pairs of all processes, between two logs

    def record(self, **values: Tensor) -> None:
        """Log the mean of values of shape `(pairs,)` with the next log."""
        for name, value in values.items():
            self._means[self.model.training].add(name, value, self._pair_weights)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Only logs of training contain its means: those of a step have "loss", the last one has "total_flos".
        if "loss" in logs or "total_flos" in logs:
            logs |= self._means[True].take()
        super().log(logs, start_time)

    def _inner_training_loop(self, *args, **kwargs):
        # With `auto_find_batch_size`, Trainer calls only this method again, and must not log the failed attempt.
        self._means[True] = PairMeans()
        return super()._inner_training_loop(*args, **kwargs)

    # Evaluation

    def get_test_dataloader(self, test_dataset: Dataset | dict[str, Dataset]) -> DataLoader:
        """
        Make the loader of `predict` for sentence pairs of one language; if several are taught, `{language: pairs}`.

        Raises:
            ValueError: the pairs are of several languages, or their language is not given, or they lack a side.
        """
        pairs = pairs_by_language(self.args, "test_dataset", test_dataset)
        if len(pairs) != 1:
            raise ValueError(f"test_dataset must be in one language, got {', '.join(pairs)}; call predict for each")
        if self.data_collator.teacher_vectors is not None:
            self._cache_teacher(pairs)
        return super().get_test_dataloader(self._with_language(pairs))

    def _with_language(self, pairs: dict[str, Dataset]) -> Dataset:
        """Prepare the sentence pairs of one language for the collator."""
        return join_languages(pairs) if len(self.args.languages) > 1 else next(iter(pairs.values()))

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Compute the mean cost of the sentence pairs, and the measures of the retrieval evaluators.

        If documents are ranked, the cost of a pair depends on its batch: compare `eval_loss` only at the same
        `per_device_eval_batch_size`.

        Args:
            eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
                Sentence pairs, in place of the trainer's; then only the evaluators of their languages run.
            ignore_keys (`list[str]`, *optional*): As in [`~transformers.Trainer.evaluate`].
            metric_key_prefix (`str`, defaults to `"eval"`): Prefix of every name.

        Returns:
            `dict[str, float]`: `eval_loss` and its parts, `eval_map` and so on; with several languages also
            `eval_ha_loss`, `eval_ha_map` and so on of each, and the former are means over the languages.
        """
        own = eval_dataset is None
        datasets = pairs_by_language(self.args, "eval_dataset", (self.eval_dataset or None) if own else eval_dataset)
        if not datasets and not (own and self.retrieval_evaluators):
            raise ValueError("eval_dataset must have sentence pairs to evaluate on; pass it here or to the trainer")
        if not own and self.data_collator.teacher_vectors is not None:
            self._cache_teacher(datasets)
        start, results = time.time(), {}
        for language in self.args.languages:
            searched = language in self.retrieval_evaluators and (own or language in datasets)
            if language in datasets or searched:
                costs = self._mean_costs({language: datasets[language]}, ignore_keys) if language in datasets else {}
                results[language] = costs | (self._search(language) if searched else {})
        metrics: Any = over_languages(results, f"{metric_key_prefix}_", several=len(self.args.languages) > 1)
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=sum(map(len, datasets.values())))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _mean_costs(self, pairs: dict[str, Dataset], ignore_keys: list[str] | None) -> dict[str, float]:
        """Compute the mean cost of the sentence pairs of one language, its parts and diagnostics."""
        self._means[False] = PairMeans()
        loader = self.get_eval_dataloader(self._with_language(pairs))
        output = self.evaluation_loop(loader, "Evaluation", ignore_keys=ignore_keys)
        return {"loss": output.metrics["eval_loss"], **self._means[False].take()}  # type: ignore[index]

    def _search(self, language: str) -> dict[str, float]:
        """Search with the queries of a language, and keep the results for the card."""
        self.set_language(language)
        self.model.eval()
        self._set_strength(language)
        evaluator, processor = self.retrieval_evaluators[language], self.processors[language]
        measured = from_main_process(lambda: measure(evaluator, evaluator.search(self.model, processor)))
        self.run_record.add_result(language, self.state.global_step, measured)
        return {name: own["trained"] for name, own in measured["measures"].items()}

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs | {"pair_weights": pair_weights(len(inputs["index"]))})
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return None, outputs["costs"], outputs["costs"]

    # Packs, cards and the Hub

    @property
    def references(self) -> dict[str, dict[str, dict[str, float]]]:
        return self.run_record.references

    @references.setter
    def references(self, references: dict[str, dict[str, dict[str, float]]]) -> None:
        self.run_record.references = references

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        return self.run_record.details

    @details.setter
    def details(self, details: dict[str, dict[str, Any]]) -> None:
        self.run_record.details = details

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Language -> results of the last evaluation, as in [`write_card`]; empty after further training steps."""
        return self.run_record.results(self.state.global_step)

    def language_pack(self, language: str | None = None, state_dict: dict[str, Tensor] | None = None) -> LanguagePack:
        """
        Copy the weights trained so far into a pack.

        Args:
            language (`str`, *optional*): code of a language or a pack; optional if one pack is trained.
            state_dict (`dict`, *optional*): weights to read from, as in [`~LanguagePack.from_model`].
        """
        packs = self.args.packs
        pack = next(iter(packs)) if language is None and len(packs) == 1 else self.args.pack_of(language or "")
        if pack not in packs:
            raise ValueError(f"language must be one of {', '.join(packs) or 'none'}, got {language!r}")
        copied = LanguagePack.from_model(
            self.model,
            pack,
            roles=self.processing_class.roles,
            details=self.run_record.card_details(packs[pack], self.state.global_step),
            base_fingerprint=self.base_fingerprint,
            known_words=self.processors[packs[pack][0]].known_words,
            state_dict=state_dict,
        )
        return replace(copied, strength=self._strengths[pack])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # Without Trainer's `training_args.bin`, a pickle that contains the Hub token (huggingface/transformers#34612).
        if not self.args.should_save:
            return
        output_dir = output_dir or self.args.output_dir
        if self.args.train_all_weights:
            self.model.save_pretrained(output_dir, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)
        for code in self.args.packs:
            pack = self.language_pack(code, state_dict)
            # This folder is uploaded later.
            pack = pack.without_local_paths() if self.args.push_to_hub or self._repositories else pack
            pack.save_pretrained(self.args.folder_of(code, output_dir))

    def create_model_card(self, **kwargs) -> None:  # type: ignore[override]
        """
        Write a card for each pack, or for the model, to `README.md` in its folder, with the training curves.

        The card shows `self.results` and `self.details`. The curves need matplotlib.
        """
        if self.is_world_process_zero():
            write_run_card(self.args, self.run_record, self.model, self.state, self._repositories)

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
        Upload the packs or the model, with cards, figures and results, as [`~transformers.Trainer.push_to_hub`] does.

        Several packs go to `hub_model_id-CODE`, and a list is returned.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        self.create_model_card(**kwargs)
        if self.is_world_process_zero():
            pushed = push_run(self.args, self._repositories, commit_message, blocking, token, revision)
            return pushed if len(self.args.packs) > 1 else pushed[0]
