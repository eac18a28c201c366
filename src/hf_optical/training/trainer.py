from __future__ import annotations

import copy
import time
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..bitext.ranking import join_triples
from ..evaluation import RetrievalEvaluator
from ..languages import LanguagePack, activate, active_language
from ..losses import OTAlignmentLoss, RankingLoss
from ..model import OpticalModel, OpticalOutput, OpticalProcessor
from .checkpoints import CheckpointingTrainer
from .config import OTDistillationConfig
from .distributed import PairMeans, pair_weights
from .evaluating import EvaluatingTrainer
from .preparation import (
    alignment_loss,
    by_language,
    check_optimizers,
    check_sizes,
    check_use,
    make_collator,
    open_model,
    pairs_by_language,
    prepare_student,
    read_dictionaries,
    teacher_texts,
)
from .publishing import PublishingTrainer
from .run_details import scripts_of
from .sampling import LanguageSampler, LengthSampler, join_languages
from .teacher import TeacherVectors


class OTDistillationTrainer(CheckpointingTrainer, EvaluatingTrainer, PublishingTrainer):
    r"""
    Teaches a student new languages from sentence pairs: it reads the new language, a frozen teacher reads the English,
    and the cost of transporting its token vectors onto the teacher's is the loss (OPTICAL-style, arXiv 2301.12566).

    Several languages are taught in turns, a batch in one of them each ([`LanguageSampler`]), and each trains its own
    pack or one that they share; what one pack learns changes nothing in another.

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
            Sentence pairs from [`load_bitext`]. For several languages a `dict`: language -> pairs.
        processing_class ([`OpticalProcessor`], *optional*), teacher_processing_class ([`OpticalProcessor`],
            *optional*):
            What cuts the student's and the teacher's texts into tokens. Opened beside the model by default.
        retrieval_evaluator ([`RetrievalEvaluator`], *optional*):
            Questions and passages to search at every evaluation; its measures become `eval_map` and so on, for
            `metric_for_best_model` and early stopping. For several languages a `dict`: language -> evaluator; they
            need no `eval_dataset` of the same languages.
        peft_config (`peft.LoraConfig`, *optional*):
            The adapter of every pack, in place of the one that `args` describes.
        loss (`nn.Module`, *optional*):
            In place of the alignment loss that `args` describes; called alike, with `reduction="none"` set.
        triples (`datasets.Dataset`, *optional*):
            With code switching: English queries and documents to rank, from [`load_triples`]. By default the English
            sentences of the pairs. Each sentence pair gets one, the same in every epoch, so there are as many steps as
            without.
        callbacks (`list[transformers.TrainerCallback]`, *optional*):
            As in [`~transformers.Trainer`].
        optimizers (`tuple`, defaults to `(None, None)`):
            Optimizer and schedule, of the weights of a `model` that is given, with `train_all_weights`. The weights of
            a pack are made in here: to train them otherwise set `args.optim`, or override `create_optimizer`.

    Attributes:
        processors (`dict[str, OpticalProcessor]`):
            Language -> what cuts its texts into tokens. `processing_class` is the same for one pack, and knows no new
            words for several.
        references (`dict[str, dict]`), details (`dict[str, dict]`):
            For the cards. `"zero_shot"` and `"ceiling"` -> language -> measure -> value: what the untrained student
            and the teacher on human translations reach. And language -> what else should be told of it (`bitext`,
            `bitext_license`, `license`, `note`, ...), as in [`write_card`].

    Raises:
        ValueError: vector sizes that do not meet, sentence pairs without the languages, a dictionary or triples that
            do not fit, what the method has no use for, `optimizers` of other weights, or FSDP beside a
            `retrieval_evaluator`.
        FloatingPointError: while training, a loss that is not finite; the message names the pair.
        FileExistsError: while training, if another run is at work in `output_dir`.
    """

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
        loss: nn.Module | None = None,
        triples: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ):
        pairs = pairs_by_language(args, "train_dataset", train_dataset, complete=True)
        pairs_by_language(args, "eval_dataset", eval_dataset)
        self.retrieval_evaluators = by_language(args, "retrieval_evaluator", retrieval_evaluator)
        check_use(args, loss=loss, triples=triples)
        if triples is not None:
            pairs = {language: join_triples(own, triples, args.seed) for language, own in pairs.items()}
        dictionaries = read_dictionaries(args, pairs)
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

        if args.disable_dropout:
            # The student's own: the adapter, which has its dropout by a setting of its own, comes after.
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        base_processor = processing_class
        self.processors = prepare_student(model, processing_class, args, pairs, peft_config)
        if len(args.packs) < 2:
            processing_class = self.processors[args.languages[0]]

        data_collator = make_collator(
            args, pairs, self.processors, teacher_processing_class, base_processor, dictionaries
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=join_languages(pairs) if len(pairs) > 1 else pairs.get(args.languages[0]),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            # With metrics Trainer gathers predictions: here the cost of every pair, for a mean over them.
            compute_metrics=lambda prediction: {"loss": float(prediction.predictions.mean())},
            callbacks=callbacks,
            optimizers=optimizers,
        )
        check_optimizers(self.model, *optimizers)
        if self.is_fsdp_enabled and self.retrieval_evaluators:
            raise ValueError(
                "under FSDP no process holds the whole student, so it cannot encode queries while it trains; leave "
                "retrieval_evaluator out and evaluate the saved model"
            )
        self.teacher.to(self.accelerator.device)
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
        self.loss = loss or alignment_loss(args)
        if self.loss is not None:
            self.loss.reduction = "none"
        self.ranking_loss = RankingLoss(args.ranking_temperature, reduction="none")
        self._facts = {
            language: {"pairs": len(own), "scripts": scripts_of(row[language] for row in own[:10_000]["translation"])}
            for language, own in pairs.items()
        }
        self._triples = 0 if triples is None else len(triples)
        self._given = {} if peft_config is None else {"lora_rank": peft_config.r}
        if loss is not None:
            self._given["loss"] = type(loss).__name__
        self._teacher_processor = teacher_processing_class
        # Of training and of evaluation; and what each pair of the batch counts for.
        self._means = {True: PairMeans(), False: PairMeans()}
        self._pair_weights: Tensor | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        # `evaluate()` before `train()` leaves a mark with which accelerate would skip the distributed wrapper here.
        if self.model_wrapped is self.model and hasattr(self.model, "_is_accelerate_prepared"):
            del self.model._is_accelerate_prepared
        self._measured.clear()
        start = time.monotonic()
        with self.running(resume_from_checkpoint) as checkpoint:
            self._cache_teacher(self.train_dataset, self.eval_dataset)
            with self._interrupt:
                output = super().train(checkpoint, *args, **kwargs)
        # How long the part before a checkpoint took is not known.
        self._seconds = None if checkpoint else time.monotonic() - start
        return output

    def _inner_training_loop(self, *args, **kwargs):
        # A run that failed, or a batch that did not fit, has left means behind.
        self._means[True] = PairMeans()
        return super()._inner_training_loop(*args, **kwargs)

    def _cache_teacher(self, *datasets: Dataset | dict[str, Dataset] | None) -> None:
        """Has the teacher read every sentence of these datasets that it has not read before, if that is asked for."""
        if not self.args.cache_teacher:
            return
        pairs = [
            each for given in datasets for each in (given.values() if isinstance(given, dict) else [given]) if each
        ]
        for role, texts in teacher_texts(self.args, pairs).items():
            self.data_collator.teacher_vectors = TeacherVectors.prepare(
                self.teacher,
                self._teacher_processor,
                texts,
                (role,),
                self.args.teacher_cache_dir,
                autocast={"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision),
                show_progress=not self.args.disable_tqdm,
            )

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
        arguments = {name: weight for name, weight in weights.items() if weight is not None}
        texts = student.embeddings, teacher.embeddings, student.mask, teacher.mask
        if not isinstance(self.loss, OTAlignmentLoss):
            return {"alignment": self.loss(*texts, **arguments)}
        cost, plan = self.loss(*texts, return_diagnostics=True, **arguments)
        self._record(
            plan_entropy=plan.entropy, plan_marginal_error=plan.marginal_error, plan_iterations=plan.iterations
        )
        return {"alignment": cost}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if len(self.args.languages) == 1:
            sampler = super()._get_train_sampler(train_dataset)
            by_length = isinstance(sampler, LengthGroupedSampler)
            return LengthSampler(sampler.lengths, sampler.batch_size, seed=seed) if by_length else sampler
        pairs = self.train_dataset if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        return LanguageSampler(
            pairs["language"],
            self._train_batch_size * self.args.world_size,
            temperature=self.args.sampling_temperature,
            lengths=pairs[self.args.length_column_name] if by_length else None,
            seed=seed,
        )

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        # As accelerate does for samplers of its own: where several processes go on in mid-epoch, it looks here for the
        # one to tell the epoch, and without they would go through the first epoch again. Where batches are drawn
        # without such a one, Trainer tells them.
        if isinstance(loader.batch_sampler, BatchSamplerShard):
            sampler = getattr(loader.batch_sampler.batch_sampler, "sampler", None)
            if sampler is not None:
                loader.set_sampler(sampler)
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # The batches of several languages are whole as they are, and `batch_rebalance` deals out its own.
        if batches and len(self.args.languages) == 1 and self.args.train_sampling_strategy != "batch_rebalance":
            batches[-1] = self._weigh(batches[-1])
        return batches, items

    def _weigh(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch that may be the last of its loader, with what its pairs count for."""
        whole = self.args.dataloader_drop_last
        return batch | {"pair_weights": None if whole else pair_weights(len(batch["index"]))}

    def set_language(self, language: str) -> None:
        """Puts the pack of a language to work in `model`, if it is not at work already."""
        pack = self.args.pack_of(language)
        if self.args.packs and active_language(self.model) != pack:
            activate(self.model, pack)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.set_language(inputs["language"])
        self._pair_weights = inputs.get("pair_weights")
        student = self._read_with_student(model, inputs["student"], inputs["blocks"])
        parts: dict[str, Tensor] = {}
        if "pairs" in student:
            aligned, teacher = student["pairs"], self._read_with_teacher(inputs["teacher"])
            self._check_finite(aligned.embeddings.sum((1, 2)), inputs["index"])
            aligned.weights, teacher.weights = inputs.get("student_weights"), inputs.get("teacher_weights")
            parts |= self.pair_losses(aligned, teacher)
        if "anchor" in student:
            start, stop = inputs["blocks"]["anchor"]
            english = {name: tensor[start:stop] for name, tensor in inputs["student"].items()}
            parts["anchor"] = self.args.anchor_weight * self._anchor_losses(student["anchor"], english)
        if "queries" in student:
            parts["ranking"] = self.args.ranking_weight * self._ranking_losses(student, inputs)
        self._record(**{f"loss_{name}": part for name, part in parts.items()})
        # One row a role and pair -> one cost a pair.
        costs = sum(part.view(-1, len(inputs["index"])).mean(0) for part in parts.values())
        self._check_finite(costs, inputs["index"])
        loss = (costs if self._pair_weights is None else costs * self._pair_weights).mean()
        return (loss, {"costs": costs}) if return_outputs else loss

    def _read_with_student(
        self, model: nn.Module, inputs: dict[str, Tensor], blocks: dict[str, tuple[int, int]]
    ) -> dict[str, OpticalOutput]:
        """What the student makes of each block of texts, all in one forward."""
        if self.args.alternate and self.model.training:
            kept = ("queries", "documents") if self.state.global_step % 2 else ("pairs", "anchor")
            blocks = {name: rows for name, rows in blocks.items() if name in kept}
            rows = [row for start, stop in blocks.values() for row in range(start, stop)]
            inputs = {name: tensor[rows] for name, tensor in inputs.items()}
        student, start, read = model(**inputs), 0, {}
        for name, (first, last) in blocks.items():
            read[name] = student.rows(start, start + last - first)
            start += last - first
        return read

    def _read_with_teacher(self, inputs: dict[str, Tensor]) -> OpticalOutput:
        if "embeddings" in inputs:
            return OpticalOutput(embeddings=inputs["embeddings"].float(), mask=inputs["token_mask"])
        with torch.no_grad():
            return self.teacher(**inputs)

    def _anchor_losses(self, now: OpticalOutput, english: dict[str, Tensor]) -> Tensor:
        """Cosine distance, token by token, of the English sentences to what the student once made of them."""
        with torch.no_grad():
            before = self.reference(**english)
        distance = 1 - (now.embeddings * before.embeddings).sum(-1)
        return (distance * now.mask).sum(-1) / now.mask.sum(-1)

    def _ranking_losses(self, student: dict[str, OpticalOutput], inputs: dict[str, Any]) -> Tensor:
        """How the student ranks the English documents for the code-switched queries, for each query."""
        documents = self._read_with_teacher(inputs["teacher_documents"])
        if self.args.ranking_target == "labels":
            target = inputs["relevant"]
        else:
            queries = self._read_with_teacher(inputs["teacher_queries"])
            target = RankingLoss.scores(queries.embeddings, documents.embeddings, queries.mask, documents.mask)
        queries, documents = student["queries"], student.get("documents", documents)
        return self.ranking_loss(queries.embeddings, documents.embeddings, queries.mask, documents.mask, target)

    def _check_finite(self, values: Tensor, index: Tensor) -> None:
        finite = torch.isfinite(values).view(-1, len(index)).all(0)
        if not finite.all():
            rows = index[~finite].tolist()
            raise FloatingPointError(
                f"the loss is not finite at sentence pair {', '.join(map(str, rows[:5]))} (row in the source, counted "
                f"from 0), step {self.state.global_step}. Look at the pair; lower the learning rate; if the student "
                "trains in half precision, use bf16 instead of fp16. The last checkpoint is unharmed"
            )

    def _record(self, **values: Tensor) -> None:
        """Keeps means until they are told."""
        for name, value in values.items():
            self._means[self.model.training].add(name, value, self._pair_weights)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Those of training, which no other log may take away: a step's has "loss", the one at the end "total_flos".
        if "loss" in logs or "total_flos" in logs:
            logs |= self._means[True].take()
        super().log(logs, start_time)

    def language_pack(self, language: str | None = None, state_dict: dict[str, Tensor] | None = None) -> LanguagePack:
        """
        What has been learned so far.

        Args:
            language (`str`, *optional*): code of a language or a pack; may be left out where one pack is trained.
            state_dict (`dict`, *optional*): weights to read from, as in [`~LanguagePack.from_model`].
        """
        packs = self.args.packs
        pack = next(iter(packs)) if language is None and len(packs) == 1 else self.args.pack_of(language)
        if pack not in packs:
            raise ValueError(f"language={language!r} has no pack in this run; it trains {', '.join(packs) or 'none'}")
        return LanguagePack.from_model(
            self.model,
            pack,
            roles=self.processing_class.roles,
            details=self._details(packs[pack]),
            base_fingerprint=self.base_fingerprint,
            state_dict=state_dict,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        # Unlike Trainer's own, this writes no `training_args.bin`: it is a pickle that holds the Hub token.
        output_dir = output_dir or self.args.output_dir
        if self.args.train_all_weights:
            self.model.save_pretrained(output_dir, state_dict=state_dict)
            self.processing_class.save_pretrained(output_dir)
        for code in self.args.packs:
            pack = self.language_pack(code, state_dict)
            # What is uploaded later is this very folder.
            pack = pack.without_local_paths() if self.args.push_to_hub or self._repositories else pack
            pack.save_pretrained(self.args.folder_of(code, output_dir))

    def _load_best_model(self) -> None:
        self._measured.clear()
        super()._load_best_model()
