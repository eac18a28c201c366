from .config import OTDistillationConfig
from .multi_vector_loss import MultiVectorOTAlignmentLoss
from .trainer import OTDistillationTrainer


__all__ = ["MultiVectorOTAlignmentLoss", "OTDistillationConfig", "OTDistillationTrainer"]
