"""Teach a late-interaction retriever a new language from translated sentences, and keep its English index."""

from importlib import import_module
from typing import TYPE_CHECKING


__version__ = "0.1.0.dev0"

# Public name -> module. Imported on first use, so that `import hf_optical` stays instant.
_PUBLIC = {
    "LanguagePack": "languages",
    "MultiVectorOTAlignmentLoss": "training",
    "OTAlignmentLoss": "losses",
    "OTDistillationConfig": "training",
    "OTDistillationTrainer": "training",
    "OpticalConfig": "model",
    "OpticalModel": "model",
    "OpticalProcessor": "model",
    "OpticalRetriever": "retrieval",
    "RetrievalEvaluator": "evaluation",
    "load_beir": "evaluation",
    "load_bitext": "bitext",
    "maxsim": "retrieval",
    "transport_plan": "transport",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:  # what editors and type checkers see
    from .bitext import load_bitext
    from .evaluation import RetrievalEvaluator, load_beir
    from .languages import LanguagePack
    from .losses import OTAlignmentLoss
    from .model import OpticalConfig, OpticalModel, OpticalProcessor
    from .retrieval import OpticalRetriever, maxsim
    from .training import MultiVectorOTAlignmentLoss, OTDistillationConfig, OTDistillationTrainer
    from .transport import transport_plan
