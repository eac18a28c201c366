from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback, set_seed

from .. import __version__
from ..bitext import DistillationCollator
from ..evaluation import RetrievalEvaluator
from ..hub import write_card
from ..languages import LanguagePack
from ..losses import OTAlignmentLoss
from ..model import OpticalModel, OpticalOutput, OpticalProcessor
from .checkpoints import SaveOnInterrupt, read_weights
from .config import OTDistillationConfig
from .distributed import from_main_process, mean_over_processes
from .preparation import check_languages, check_sizes, open_model, prepare_student, token_weights


class OTDistillationTrainer(Trainer):
    r"""
    Teaches a student a new language from sentence pairs: it reads the new language, a frozen teacher reads the
    English, and the cost of transporting its token vectors onto the teacher's is the loss (OPTICAL-style, arXiv
    2301.12566).

    Everything else is [`~transformers.Trainer`]: accumulation, mixed precision, activation checkpointing, several
    processes, logging, resuming.

    To change the loss, override [`~OTDistillationTrainer.pair_losses`]; every part it returns is added to the loss
    and logged under its name.

    Args:
        model (`str` or [`OpticalModel`]):
            The student, or its folder or Hub id.
        teacher (`str` or [`OpticalModel`]):
            The teacher. Any tokenizer and size, as long as its vectors are of the student's size. A model given is
            copied if it is the student itself, frozen otherwise.
        args ([`OTDistillationConfig`]):
            The settings.
        train_dataset (`datasets.Dataset`), eval_dataset (`datasets.Dataset`, *optional*):
            Sentence pairs from [`load_bitext`].
        processing_class ([`OpticalProcessor`], *optional*), teacher_processing_class ([`OpticalProcessor`],
            *optional*):
            What cuts the student's and the teacher's texts into tokens. Opened beside the model by default.
        retrieval_evaluator ([`RetrievalEvaluator`], *optional*):
            Questions and passages to search at every evaluation; its measures become `eval_map` and so on, for
            `metric_for_best_model` and early stopping.
        peft_config (`peft.LoraConfig`, *optional*):
            The adapter, in place of the one that `args` describes.
        loss (`nn.Module`, *optional*):
            In place of the [`OTAlignmentLoss`] that `args` describes; called alike, with `reduction="none"` set.
        callbacks, optimizers:
            As in [`~transformers.Trainer`].

    Raises:
        ValueError: vector sizes that do not meet, sentence pairs without the languages, or FSDP beside a
            `retrieval_evaluator`.
        FloatingPointError: while training, a loss that is not finite; the message names the pair.
    """

    # `compute_loss` returns the mean of one batch; Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | OpticalModel,
        teacher: str | OpticalModel,
        args: OTDistillationConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: OpticalProcessor | None = None,
        teacher_processing_class: OpticalProcessor | None = None,
        retrieval_evaluator: RetrievalEvaluator | None = None,
        peft_config: LoraConfig | None = None,
        loss: nn.Module | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ):
        check_languages(args, train_dataset=train_dataset, eval_dataset=eval_dataset)
        model, processing_class = open_model(model, processing_class, "model", "processing_class")
        same = teacher is model
        teacher, teacher_processing_class = open_model(
            teacher,
            teacher_processing_class or (processing_class if same else None),
            "teacher",
            "teacher_processing_class",
        )
        check_sizes(model, teacher)
        self.teacher = (copy.deepcopy(teacher) if same else teacher).eval().requires_grad_(False)
        # The student as it was, for the anchor. Beside an adapter the base never changes, so its weights are shared.
        shared = {} if args.train_all_weights else {id(weight): weight for weight in model.parameters()}
        self.reference = copy.deepcopy(model, shared).eval() if args.anchor_weight else None
        self.base_fingerprint = model.fingerprint()

        # Trainer seeds too, but only after the adapter's first weights are drawn.
        set_seed(args.seed)
        anchor_processor = processing_class if args.anchor_weight else None
        if not args.train_all_weights:
            processing_class = prepare_student(model, processing_class, args, train_dataset, peft_config)
        if args.disable_dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0

        save_on_interrupt = SaveOnInterrupt()
        super().__init__(
            model=model,
            args=args,
            data_collator=DistillationCollator(
                student_processor=processing_class,
                teacher_processor=teacher_processing_class,
                language=args.language,
                teacher_language=args.teacher_language,
                roles=args.roles,
                anchor=anchor_processor,
                align_special_tokens=args.align_special_tokens,
                **token_weights(args, train_dataset, processing_class, teacher_processing_class),
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            # With metrics Trainer gathers predictions: here the cost of every pair, so that the mean is exact.
            compute_metrics=self._evaluation_metrics,
            callbacks=[save_on_interrupt, *(callbacks or [])],
            optimizers=optimizers,
        )
        if self.is_fsdp_enabled and retrieval_evaluator is not None:
            raise ValueError(
                "under FSDP no process holds the whole student, so it cannot encode queries while it trains; leave "
                "retrieval_evaluator out and evaluate the saved model"
            )
        self.teacher.to(self.accelerator.device)
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
        self.loss = loss or OTAlignmentLoss(
            solver=args.solver,
            epsilon=args.epsilon,
            max_iterations=args.max_iterations,
            tolerance=args.tolerance,
            marginal_penalty=args.marginal_penalty,
            transported_mass=args.transported_mass,
        )
        self.loss.reduction = "none"
        self.retrieval_evaluator = retrieval_evaluator
        self.results: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self._save_on_interrupt = save_on_interrupt
        self._logged: dict[str, list[Tensor]] = defaultdict(list)

    def train(self, *args, **kwargs):
        # `evaluate()` before `train()` leaves a mark with which accelerate would skip the distributed wrapper here.
        if self.model_wrapped is self.model and hasattr(self.model, "_is_accelerate_prepared"):
            del self.model._is_accelerate_prepared
        with self._save_on_interrupt:
            return super().train(*args, **kwargs)

    def pair_losses(self, student: OpticalOutput, teacher: OpticalOutput) -> dict[str, Tensor]:
        """
        The parts of the loss, for each sentence pair. The place to override.

        Args:
            student ([`OpticalOutput`]): `embeddings` (pairs, student tokens, dim), `mask` and, unless marginals are
                uniform, `weights`, both (pairs, student tokens).
            teacher ([`OpticalOutput`]): the same for the teacher, without gradient.

        Returns:
            `dict[str, Tensor]`: name -> loss of shape `(pairs,)`.
        """
        weights = {"student_weights": student.weights, "teacher_weights": teacher.weights}
        cost, plan = self.loss(
            student.embeddings,
            teacher.embeddings,
            student.mask,
            teacher.mask,
            return_diagnostics=True,
            **{name: weight for name, weight in weights.items() if weight is not None},
        )
        self._record(
            plan_entropy=plan.entropy, plan_marginal_error=plan.marginal_error, plan_iterations=plan.iterations
        )
        return {"transport": cost}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        student = model(**inputs["student"])
        with torch.no_grad():
            teacher = self.teacher(**inputs["teacher"])
        pairs = len(teacher.embeddings)
        self._check_finite(student.embeddings[:pairs].sum((1, 2)), inputs["index"])
        aligned = student.rows(0, pairs)
        aligned.weights, teacher.weights = inputs.get("student_weights"), inputs.get("teacher_weights")
        parts = self.pair_losses(aligned, teacher)
        if self.reference is not None:
            parts["anchor"] = self.args.anchor_weight * self._anchor_losses(student, inputs["student"], pairs)
        self._record(**{f"loss_{name}": part for name, part in parts.items()})
        # One row a role and pair -> one cost a pair.
        costs = sum(parts.values()).view(len(self.args.roles), -1).mean(0)
        self._check_finite(costs, inputs["index"])
        loss = costs.mean()
        return (loss, {"costs": costs}) if return_outputs else loss

    def _anchor_losses(self, student: OpticalOutput, inputs: dict[str, Tensor], pairs: int) -> Tensor:
        """Cosine distance, token by token, of the English sentences to what the student once made of them."""
        with torch.no_grad():
            before = self.reference(**{name: tensor[pairs:] for name, tensor in inputs.items()})
        now = student.rows(pairs, 2 * pairs)
        distance = 1 - (now.embeddings * before.embeddings).sum(-1)
        return (distance * now.mask).sum(-1) / now.mask.sum(-1)

    def _check_finite(self, values: Tensor, index: Tensor) -> None:
        finite = torch.isfinite(values).view(-1, len(index)).all(0)
        if not finite.all():
            rows = index[~finite].tolist()
            raise FloatingPointError(
                f"the loss is not finite at sentence pair {', '.join(map(str, rows[:5]))} (row in the source, counted "
                f"from 0), step {self.state.global_step}. Look at the pair; lower the learning rate; if the student "
                "trains in half precision, use bf16 instead of fp16. The last checkpoint is unharmed"
            )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return None, outputs["costs"], outputs["costs"]

    def _evaluation_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        metrics = {"loss": float(prediction.predictions.mean())}
        if self.retrieval_evaluator is not None:
            metrics |= from_main_process(lambda: self.retrieval_evaluator(self.model, self.processing_class))
        return metrics

    def _record(self, **values: Tensor) -> None:
        """Keeps means until the next log; on the device, so that nothing waits for them."""
        for name, value in values.items():
            key = name if self.model.training else f"eval_{name}"
            self._logged[key].append(value.detach().float().mean())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        evaluating = any(name.startswith("eval_") for name in logs)
        for name in [name for name in self._logged if name.startswith("eval_") == evaluating]:
            logs[name] = mean_over_processes(torch.stack(self._logged.pop(name)).mean())
        super().log(logs, start_time)

    def language_pack(self, state_dict: dict[str, Tensor] | None = None) -> LanguagePack:
        """What has been learned so far."""
        return LanguagePack.from_model(
            self.model,
            self.args.language,
            roles=self.processing_class.roles,
            details=self._details(),
            base_fingerprint=self.base_fingerprint,
            state_dict=state_dict,
        )

    def _details(self) -> dict[str, Any]:
        """Where the weights come from, for pack and card."""
        settings = (
            "side",
            "solver",
            "epsilon",
            "marginals",
            "align_special_tokens",
            "anchor_weight",
            "new_words",
            "lora_rank",
            "learning_rate",
            "num_train_epochs",
            "seed",
        )
        return {
            "hf_optical_version": __version__,
            "teacher": self.teacher.name_or_path,
            "teacher_language": self.args.teacher_language,
            "steps": self.state.global_step,
            "settings": {name: getattr(self.args, name) for name in settings},
            **self.details,
        }

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # Unlike Trainer's own, this writes no `training_args.bin`: it is a pickle that holds the Hub token.
        output_dir = output_dir or self.args.output_dir
        if self.args.train_all_weights:
            self.model.save_pretrained(output_dir, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)
        else:
            self.language_pack(state_dict).save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        read_weights(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        read_weights(self.model, self.state.best_model_checkpoint)

    def create_model_card(self, **kwargs) -> None:
        """
        Writes the card of what was trained to `output_dir/README.md`.

        The results on it are `self.results`; without them, those of the last evaluation. What else should be told
        (the bitext's name, say) goes into `self.details`.
        """
        if not self.is_world_process_zero():
            return
        evaluations = [log for log in self.state.log_history if "eval_loss" in log]
        write_card(
            self.args.output_dir,
            kind="model" if self.args.train_all_weights else "language_pack",
            language=self.args.language,
            base_model=self.model.name_or_path,
            details=self._details(),
            results=self.results or (evaluations[-1] if evaluations else {}),
        )
