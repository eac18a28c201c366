"""Alignment of a sentence with its translation: by transport, greedily, or by the mean vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..bitext.frequency import inverse_document_frequency
from ..bitext.loading import iter_sentences
from ..bitext.noise import Mistyper
from ..checks import check_choice, check_number
from ..losses import Geometry, GreedyAlignmentLoss, OTAlignmentLoss, SentenceMSELoss
from ..model import OpticalOutput
from ..options import option
from ..transport import SOLVERS, Partial, Sinkhorn, Unbalanced, make_solver
from .base import Blocks, LanguageData, Method, PairReader, PairSettings, Reader, Reading, Run


logger = logging.getLogger(__name__)

MARGINALS = ("uniform", "idf")
# Options that decide how precisely a problem is solved, not which; a card leaves them out.
PRECISION = {"max_iterations", "tolerance"}
# Epsilon as a part of the spread of costs: 0.01 for all-MiniLM-L6-v2.
RELATIVE_EPSILON = 0.053
PAIR = "the frozen teacher reads the {teacher_language} sentence, the student its translation; the loss is "


@dataclass(repr=False)
class AlignmentSettings(PairSettings):
    """Settings of [`OptimalTransport`], [`Greedy`] and [`Sentence`]; those of the solvers are for the first alone."""

    marginals: str = option("idf", "Weights of the tokens in the alignment.", MARGINALS)
    solver: str = option("sinkhorn", "Transport solver.", SOLVERS)
    epsilon: float | None = option(
        None, "Entropic regularisation of the transport plan. Default: by the spread of the teacher's costs."
    )
    center_costs: bool = option(True, "Subtract the mean of the teacher's vectors before they are compared.")
    max_iterations: int = option(Sinkhorn.max_iterations, "Maximum number of iterations of the transport solver.")
    tolerance: float = option(Sinkhorn.tolerance, "Marginal error at which the transport solver stops.")
    marginal_penalty: float = option(
        Unbalanced.marginal_penalty, "Price of leaving a token out, with --solver unbalanced."
    )
    noise_weight: float = option(0.0, "Weight of a mistyped copy of each sentence.")
    noise_strength: float = option(0.2, "Largest share of the letters that are mistyped in the copy.")
    transported_mass: float = option(Partial.transported_mass, "Part of the mass to align, with --solver partial.")

    @property
    def solver_options(self) -> dict[str, Any]:
        """The options of all solvers that are set."""
        options = {each.name: getattr(self, each.name) for solver in SOLVERS.values() for each in fields(solver)}
        return {name: value for name, value in options.items() if value is not None}

    def check_settings(self) -> None:
        super().check_settings()
        check_choice("marginals", self.marginals, MARGINALS)
        check_number("noise_weight", self.noise_weight, at_least=0, cure="pass 0 for no mistyped copies")
        check_number("noise_strength", self.noise_strength, at_least=0, at_most=1)
        for solver in SOLVERS:
            make_solver(solver, **self.solver_options)
        check_choice("solver", self.solver, SOLVERS)


class Alignment(Method):
    """Base class of the methods that align a sentence with its translation by a loss between their token vectors."""

    card_settings = (*Method.card_settings, "marginals", "center_costs")

    loss: Any  # called like a `PairLoss`
    custom_loss = False

    def __init__(self, settings: AlignmentSettings):
        super().__init__(settings)
        self.loss = self.make_loss(settings, None)
        self.loss.reduction = "none"
        if settings.noise_weight:
            self.blocks = (*self.blocks, "noisy")
        # Language -> the geometry of the teacher's vectors, and the loss that fits it.
        self._fitted: dict[str, tuple[Geometry, Any]] = {}
        # Language -> weights of the student's and of the teacher's vocabulary.
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}

    def make_loss(self, settings: AlignmentSettings, geometry: Geometry | None) -> nn.Module:
        """Make the loss of this method for a teacher of this geometry, if that is known."""
        raise NotImplementedError

    def see_teacher(self, language: str, sentences: Sequence[Tensor]) -> None:
        if not self.custom_loss:
            geometry = Geometry.of(sentences, self.settings.center_costs)
            loss: Any = self.make_loss(self.settings, geometry)
            loss.reduction = "none"
            self._fitted[language] = geometry, loss

    def use_loss(self, loss: nn.Module) -> None:
        """Replace the method's own loss. It is called like a [`PairLoss`], with `reduction="none"` set."""
        self.loss, self.custom_loss = loss, True
        self.loss.reduction = "none"

    def used_settings(self) -> dict[str, Any]:
        loss = {"loss": type(self.loss).__name__} if self.custom_loss else {}
        noise = ("noise_weight", "noise_strength") if self.settings.noise_weight else ()
        return super().used_settings() | {name: getattr(self.settings, name) for name in noise} | loss

    def reader(self, data: LanguageData) -> Reader:
        if self.settings.marginals == "idf" and data.pairs is not None:
            self._weights[data.language] = (
                inverse_document_frequency(data.student, iter_sentences(data.pairs, data.language)),
                inverse_document_frequency(data.teacher, iter_sentences(data.pairs, data.teacher_language)),
            )
        if not self.settings.noise_weight:
            return super().reader(data)
        mistype = Mistyper(self.settings.noise_strength, self.settings.seed)
        return NoisyPairReader(data, self.settings.roles, self.settings.align_special_tokens, mistype)

    def losses(self, read: Reading, run: Run) -> dict[str, Tensor]:
        parts = self._block_losses("pairs", read, run)
        if "noisy" in read.student:
            noisy = torch.stack([*self._block_losses("noisy", read, run).values()]).sum(0)
            parts["noise"] = self.settings.noise_weight * noisy
        return parts

    def _block_losses(self, block: str, read: Reading, run: Run) -> dict[str, Tensor]:
        """Losses between a block that the student reads and the teacher's reading of the sentences."""
        student, teacher = read.student[block], read.teacher("pairs")
        if read.language in self._fitted:
            _, self.loss = self._fitted[read.language]
        if read.language in self._weights:
            student_ids, teacher_ids = read.inputs[block]["input_ids"], read.teacher_inputs["pairs"]["input_ids"]
            of_student, of_teacher = (each.to(student_ids.device) for each in self._weights[read.language])
            self._weights[read.language] = of_student, of_teacher
            student.weights, teacher.weights = of_student[student_ids], of_teacher[teacher_ids]
        return run.pair_losses(student, teacher)

    def pair_losses(self, student: OpticalOutput, teacher: OpticalOutput, run: Run) -> dict[str, Tensor]:
        """The part `"alignment"`, a loss for each pair; see [`OTDistillationTrainer.pair_losses`]."""
        weights = {"student_weights": student.weights, "teacher_weights": teacher.weights}
        weights = {name: each for name, each in weights.items() if each is not None}
        texts = student.embeddings, teacher.embeddings, student.mask, teacher.mask
        if not isinstance(self.loss, OTAlignmentLoss):
            return {"alignment": self.loss(*texts, **weights)}
        cost, plan = self.loss(*texts, return_diagnostics=True, **weights)
        run.record(plan_entropy=plan.entropy, plan_marginal_error=plan.marginal_error, plan_iterations=plan.iterations)
        return {"alignment": cost}


@dataclass
class NoisyPairReader(PairReader):
    """Rows of sentence pairs -> the blocks `"pairs"` and `"noisy"`, for the student a mistyped copy of each."""

    mistype: Mistyper

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Blocks:
        blocks = super().__call__(rows)
        typed = [self.mistype(row["translation"][self.data.language]) for row in rows]
        blocks.student["noisy"] = self.tokenize_new(rows, typed)
        return blocks


class OptimalTransport(Alignment):
    """Transport from the tokens of a sentence to those of its translation ([`OTAlignmentLoss`])."""

    name = "ot"
    description = PAIR + "the cost of the optimal transport between their token vectors (OPTICAL-style)"
    tags = ("optimal-transport",)
    citations: ClassVar = (
        """@inproceedings{huang2023optical,
  title={Improving Cross-lingual Information Retrieval on Low-Resource Languages via Optimal Transport Distillation},
  author={Huang, Zhiqi and Yu, Puxuan and Allan, James},
  booktitle={Proceedings of the Sixteenth ACM International Conference on Web Search and Data Mining},
  year={2023}
}""",
    )

    def make_loss(self, settings: AlignmentSettings, geometry: Geometry | None) -> nn.Module:
        options = settings.solver_options
        if settings.epsilon is None and geometry is not None:
            options["epsilon"] = geometry.epsilon(RELATIVE_EPSILON)
        return OTAlignmentLoss(settings.solver, center=_center(settings, geometry), **options)

    def see_teacher(self, language: str, sentences: Sequence[Tensor]) -> None:
        super().see_teacher(language, sentences)
        if language in self._fitted:
            geometry, loss = self._fitted[language]
            centered = "centered" if self.settings.center_costs else "not centered"
            logger.info("%s: costs (%s) have a spread of %.3f; %s.", language, centered, geometry.spread, loss.solver)

    def used_settings(self) -> dict[str, Any]:
        if self.custom_loss:
            return super().used_settings()
        losses = [loss for _, loss in self._fitted.values()] or [self.loss]
        options: dict[str, Any] = {}
        for name in asdict(losses[0].solver).keys() - PRECISION:
            values = [*dict.fromkeys(getattr(loss.solver, name) for loss in losses)]
            options[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
        if self._fitted:
            spreads = [geometry.spread for geometry, _ in self._fitted.values()]
            options["cost_spread"] = round(sum(spreads) / len(spreads), 3)
        return {**super().used_settings(), "solver": self.settings.solver, **dict(sorted(options.items()))}


class Greedy(Alignment):
    """One-to-one token alignment ([`GreedyAlignmentLoss`], Dr.DECR, arXiv 2112.08185)."""

    name = "greedy"
    description = (
        PAIR + "the distance of token vectors that a greedy one-to-one alignment puts together (as in Dr.DECR{but})"
    )
    citations: ClassVar = (
        """@article{li2021learning,
  title={Learning Cross-Lingual {IR} from an {E}nglish Retriever},
  author={Li, Yulong and Franz, Martin and Sultan, Md Arafat and Iyer, Bhavani and Lee, Young-Suk and Sil, Avirup},
  journal={arXiv:2112.08185},
  year={2021}
}""",
    )

    def make_loss(self, settings: AlignmentSettings, geometry: Geometry | None) -> nn.Module:
        return GreedyAlignmentLoss(center=_center(settings, geometry))

    @classmethod
    def describe(cls, settings: dict[str, Any], **names: str) -> str:
        changes = []
        if settings.get("marginals") == "idf":
            changes.append("tokens weighted by inverse document frequency")
        if settings.get("align_special_tokens") is False:
            changes.append("special tokens left out")
        but = f", but with {' and '.join(changes)}" if changes else ""
        return super().describe(settings, but=but, **names)


class Sentence(Alignment):
    """Distance of mean vectors ([`SentenceMSELoss`], Reimers & Gurevych 2020, arXiv 2004.09813)."""

    name = "sentence"
    description = PAIR + "the distance of their mean vectors"
    citations: ClassVar = (
        """@inproceedings{reimers2020making,
  title={Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author={Reimers, Nils and Gurevych, Iryna},
  booktitle={Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year={2020}
}""",
    )

    def make_loss(self, settings: AlignmentSettings, geometry: Geometry | None) -> nn.Module:
        return SentenceMSELoss()


def _center(settings: AlignmentSettings, geometry: Geometry | None) -> Tensor | None:
    return geometry.mean if geometry is not None and settings.center_costs else None
