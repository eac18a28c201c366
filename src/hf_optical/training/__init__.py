from .config import OTDistillationConfig
from .trainer import OTDistillationTrainer


__all__ = ["OTDistillationConfig", "OTDistillationTrainer"]
