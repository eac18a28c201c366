"""
The steps of a run from the command line: parse, build, train, evaluate, report, publish.

Wrong input ends the first two with one line. Later errors are faults of the library and keep their traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NoReturn

from accelerate import PartialState
from transformers import HfArgumentParser

from ..errors import exit_on_error
from ..evaluation import RetrievalDataset, RetrievalEvaluator
from ..model import OpticalModel, OpticalProcessor
from ..retrieval.search import Hit
from .checkpoints import resume_point
from .config import OTDistillationConfig
from .data import DataArguments, TrainingData, load_training_data
from .report import measure_references, questions_text, results_text, with_references
from .trainer import OTDistillationTrainer


# Names of arguments in messages -> flags.
_FLAGS = {each.name: f"--{each.name}" for each in (*fields(DataArguments), *fields(OTDistillationConfig))}
_FLAGS["columns"] = "--student_column and --teacher_column"


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}\n")  # without the usage, which fills several screens


@dataclass
class Run:
    """A run that is ready to train; `before` has the hits of the untrained student, language -> query id -> hits."""

    data_args: DataArguments
    args: OTDistillationConfig
    trainer: OTDistillationTrainer
    counts: dict[str, int]
    before: dict[str, dict[str, list[Hit]]]


def parse_run(argv: Sequence[str]) -> tuple[DataArguments, OTDistillationConfig]:
    """Parse the options of a run and turn on its log."""
    parser = _Parser([DataArguments, OTDistillationConfig])  # type: ignore[list-item]
    with exit_on_error(OSError, ValueError, flags=_FLAGS):
        data_args, args, unknown = parser.parse_args_into_dataclasses([*argv], return_remaining_strings=True)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    level = logging.INFO if PartialState().is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return data_args, args


def build_run(data_args: DataArguments, args: OTDistillationConfig) -> Run:
    """Load the data and the models, and measure the untrained student."""
    with exit_on_error(OSError, ValueError, flags=_FLAGS):
        args.resume_from_checkpoint = resume_point(args)
        data = load_training_data(data_args, args)
        trainer = build_trainer(data_args, args, data)
        return Run(data_args, trainer.args, trainer, data.counts, measure_references(trainer))


def build_trainer(data_args: DataArguments, args: OTDistillationConfig, data: TrainingData) -> OTDistillationTrainer:
    """Open the models that the arguments name and make the trainer of a run."""
    teacher_name, student_name = data_args.teacher_model or "", data_args.student_model or ""
    teacher_processor = OpticalProcessor.from_pretrained(teacher_name, **data_args.lengths)
    teacher = OpticalModel.from_pretrained(teacher_name).to(args.device)
    evaluators = build_evaluators(data.retrieval, teacher, teacher_processor)
    trainer = OTDistillationTrainer(
        model=OpticalModel.from_pretrained(student_name).to(args.device),
        teacher=teacher,
        args=args,
        train_dataset=data.train or None,
        eval_dataset=data.validation or None,
        processing_class=OpticalProcessor.from_pretrained(student_name, **data_args.lengths),
        teacher_processing_class=teacher_processor,
        retrieval_evaluator=evaluators or None,
        triples=data.triples,
        english_texts=data.english,
        monolingual_texts=data.monolingual or None,
    )
    trainer.details = data.details
    return trainer


def build_evaluators(
    datasets: dict[str, RetrievalDataset], teacher: OpticalModel, processor: OpticalProcessor
) -> dict[str, RetrievalEvaluator]:
    """Make an evaluator for each language; the teacher encodes a corpus that languages share once."""
    evaluators: dict[str, RetrievalEvaluator] = {}
    for language, dataset in datasets.items():
        vectors = None
        # Only the main process searches.
        if PartialState().is_main_process:
            same = (other for other in evaluators.values() if other.dataset.corpus == dataset.corpus)
            vectors = next((other.document_vectors for other in same), None)
        evaluators[language] = RetrievalEvaluator(
            dataset, teacher, processor, document_vectors=vectors, show_progress=True
        )
    return evaluators


def train_and_save(run: Run) -> None:
    """Train and save the packs or the model. If another run has started in the folder, exit with one line."""
    trainer = run.trainer
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    try:
        with exit_on_error(FileExistsError):
            trained = trainer.train(resume_from_checkpoint=run.args.resume_from_checkpoint)
    except KeyboardInterrupt as stop:
        sys.exit(f"\n{stop}" if str(stop) else "\nstopped at once; the last checkpoint is intact")
    # Before the evaluation, which may fail. An internal call does not push.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    trainer.save_metrics("train", {**trained.metrics, "trainable_parameters": trainable, **run.counts})


def evaluate_and_save(run: Run) -> dict[str, float | None]:
    """Evaluate, and save the results next to the packs or the model, with the model cards."""
    trainer = run.trainer
    results = with_references(trainer.evaluate(), trainer.references, run.args.languages)
    trainer.save_metrics("eval", results)
    if run.args.packs:
        trainer.save_model(_internal_call=True)  # now with its results
    trainer.create_model_card()
    return results


def report(run: Run, results: dict[str, float | None]) -> None:
    """Print the results of every language, a few questions, where the packs are, and what to do next."""
    if not run.trainer.is_world_process_zero():
        return
    for language in run.args.languages:
        print(results_text(results, language, run.args.languages))
        if language in run.before:
            print(questions_text(run.trainer, language, run.before[language], run.data_args.show_questions))
    packs = run.args.packs
    what = "model is" if not packs else "language pack is" if len(packs) == 1 else "language packs are"
    print(f"\nThe {what} in {run.args.output_dir}")
    if packs:
        print(
            "If your documents are about other topics than the pairs, train again with them as --english_file, or fit "
            "the strength to them with `hf-optical tune`."
        )


def publish(run: Run) -> None:
    """Upload the packs or the model, if `push_to_hub` is set, and close the trackers."""
    if run.args.push_to_hub:
        run.trainer.push_to_hub()
    run.trainer.accelerator.end_training()  # `Trainer.end` is of transformers 5.23
