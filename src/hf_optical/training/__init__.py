"""Training: settings, the trainer, the data and the report of a run."""

from .checkpoints import resume_point
from .config import OTDistillationConfig
from .data import DataArguments, TrainingData, load_training_data
from .multi_vector_loss import MultiVectorOTAlignmentLoss
from .report import measure_references, questions_text, results_text, with_references
from .steps import (
    build_evaluators,
    build_run,
    build_trainer,
    evaluate_and_save,
    parse_run,
    publish,
    report,
    train_and_save,
)
from .trainer import OTDistillationTrainer


__all__ = [
    "DataArguments",
    "MultiVectorOTAlignmentLoss",
    "OTDistillationConfig",
    "OTDistillationTrainer",
    "TrainingData",
    "build_evaluators",
    "build_run",
    "build_trainer",
    "evaluate_and_save",
    "load_training_data",
    "measure_references",
    "parse_run",
    "publish",
    "questions_text",
    "report",
    "results_text",
    "resume_point",
    "train_and_save",
    "with_references",
]
