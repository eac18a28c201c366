"""Evaluating a student while it trains and after: what its sentence pairs cost, and what it finds."""

from __future__ import annotations

import time
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import speed_metrics

from ..evaluation import RetrievalEvaluator
from ..evaluation.results import over_languages
from ..model import OpticalProcessor
from .distributed import PairMeans, from_main_process, pair_weights
from .preparation import pairs_by_language
from .run_details import measure
from .sampling import join_languages


class EvaluatingTrainer(Trainer):
    """What [`OTDistillationTrainer`] evaluates on, language by language, and how the results are named."""

    retrieval_evaluators: dict[str, RetrievalEvaluator]
    processors: dict[str, OpticalProcessor]
    # Of training and of evaluation.
    _means: dict[bool, PairMeans]
    _measured: dict[str, tuple[int, dict[str, Any]]]

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        The mean cost of the sentence pairs, and what the retrieval evaluators measure. Where documents are ranked, the
        cost of a pair depends on its batch: compare `eval_loss` at one `per_device_eval_batch_size`.

        Args:
            eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
                Sentence pairs, in place of those of the trainer. Evaluators run for their languages alone; without
                it, all of them do.
            ignore_keys (`list[str]`, *optional*):
                As in [`~transformers.Trainer.evaluate`].
            metric_key_prefix (`str`, defaults to `"eval"`):
                Stands before every name, in place of `eval`.

        Returns:
            `dict[str, float]`: `eval_loss` and its parts, `eval_map` and so on; with several languages also
            `eval_ha_loss`, `eval_ha_map` and so on of each, and the former are means over the languages.
        """
        datasets = pairs_by_language(
            self.args, "eval_dataset", self.eval_dataset if eval_dataset is None else eval_dataset
        )
        if not datasets:
            raise ValueError("there are no sentence pairs to evaluate on; pass eval_dataset")
        if eval_dataset is not None and self.data_collator.teacher_vectors is not None:
            self._cache_teacher(datasets)
        searched = {} if eval_dataset is not None else self.retrieval_evaluators
        start, results = time.time(), {}
        for language in self.args.languages:
            own = {}
            if language in datasets:
                own = self._mean_costs(self._of_one({language: datasets[language]}), ignore_keys)
            if language in datasets or language in searched:
                results[language] = own | self._search(language)
        metrics = over_languages(results, f"{metric_key_prefix}_")
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=sum(map(len, datasets.values())))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _mean_costs(self, pairs: Dataset, ignore_keys: list[str] | None) -> dict[str, float]:
        """The mean cost of sentence pairs of one language, its parts, and what the solver says of itself."""
        self._means[False] = PairMeans()
        output = self.evaluation_loop(self.get_eval_dataloader(pairs), "Evaluation", ignore_keys=ignore_keys)
        return {"loss": output.metrics["eval_loss"], **self._means[False].take()}

    def _search(self, language: str) -> dict[str, float]:
        """What the student finds with the questions of a language."""
        if language not in self.retrieval_evaluators:
            return {}
        self.set_language(language)
        evaluator, processor = self.retrieval_evaluators[language], self.processors[language]
        measured = from_main_process(lambda: measure(evaluator, evaluator.search(self.model, processor)))
        self._measured[language] = self.state.global_step, measured
        return {name: own["trained"] for name, own in measured["measures"].items()}

    def get_test_dataloader(self, test_dataset: Dataset | dict[str, Dataset]) -> DataLoader:
        """
        What `predict` reads.

        Args:
            test_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`):
                Sentence pairs, or language -> pairs; where several languages are taught, of one of them.

        Raises:
            ValueError: the pairs are of several languages or it is not said of which, or they lack a side.
        """
        if len(self.args.languages) > 1 and not (isinstance(test_dataset, dict) and len(test_dataset) == 1):
            first = self.args.languages[0]
            raise ValueError(
                f"test_dataset is to be of one language of {', '.join(self.args.languages)}; pass a dict with one, as "
                f"in {{{first!r}: pairs}}, and predict in a call for each"
            )
        pairs = pairs_by_language(self.args, "test_dataset", test_dataset)
        if self.data_collator.teacher_vectors is not None:
            self._cache_teacher(pairs)
        return super().get_test_dataloader(self._of_one(pairs))

    def _of_one(self, pairs: dict[str, Dataset]) -> Dataset:
        """The sentence pairs of one language as a loader takes them."""
        return join_languages(pairs) if len(self.args.languages) > 1 else next(iter(pairs.values()))

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        # What training leaves out it meets in another epoch; of what is evaluated on, no pair may be missing.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs | {"pair_weights": pair_weights(len(inputs["index"]))})
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return None, outputs["costs"], outputs["costs"]
