"""Training: settings, the trainer, the data and the report of a run."""

from .building import build_evaluators, build_trainer
from .checkpoints import resume_point
from .config import OTDistillationConfig
from .data import DataArguments, TrainingData, load_training_data
from .multi_vector_loss import MultiVectorOTAlignmentLoss
from .report import measure_references, questions_text, results_text, with_references
from .trainer import OTDistillationTrainer


__all__ = [
    "DataArguments",
    "MultiVectorOTAlignmentLoss",
    "OTDistillationConfig",
    "OTDistillationTrainer",
    "TrainingData",
    "build_evaluators",
    "build_trainer",
    "load_training_data",
    "measure_references",
    "questions_text",
    "results_text",
    "resume_point",
    "with_references",
]
