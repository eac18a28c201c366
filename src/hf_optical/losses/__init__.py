"""Losses between two sets of token embeddings. Tensors and masks in, cost out: they work in any training loop."""

from .geometry import Geometry
from .greedy import GreedyAlignmentLoss, greedy_alignment
from .pairs import PairLoss
from .ranking import RankingLoss
from .sentence import SentenceMSELoss
from .transport import OTAlignmentLoss


__all__ = [
    "Geometry",
    "GreedyAlignmentLoss",
    "OTAlignmentLoss",
    "PairLoss",
    "RankingLoss",
    "SentenceMSELoss",
    "greedy_alignment",
]
