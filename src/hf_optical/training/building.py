"""The trainer of a run that the command line describes."""

from __future__ import annotations

from accelerate import PartialState

from ..evaluation import RetrievalDataset, RetrievalEvaluator
from ..model import OpticalModel, OpticalProcessor
from .config import OTDistillationConfig
from .data import DataArguments, TrainingData
from .trainer import OTDistillationTrainer


def build_trainer(data_args: DataArguments, args: OTDistillationConfig, data: TrainingData) -> OTDistillationTrainer:
    """Open the models that the arguments name and make the trainer of a run."""
    teacher_processor = OpticalProcessor.from_pretrained(data_args.teacher_model, **data_args.lengths)
    teacher = OpticalModel.from_pretrained(data_args.teacher_model).to(args.device)
    evaluators = build_evaluators(data.retrieval, teacher, teacher_processor)
    trainer = OTDistillationTrainer(
        model=OpticalModel.from_pretrained(data_args.student_model).to(args.device),
        teacher=teacher,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=OpticalProcessor.from_pretrained(data_args.student_model, **data_args.lengths),
        teacher_processing_class=teacher_processor,
        retrieval_evaluator=evaluators or None,
        triples=data.triples,
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
