"""Test sets, measures of retrieval, significance tests and perturbed queries."""

from .benchmarks import benchmark_names, from_bitext, load_benchmark, sample_pool
from .datasets import Document, Query, RetrievalDataset, build_dataset, load_beir
from .evaluate_module import evaluate_module_path, evaluate_rows
from .evaluator import RetrievalEvaluator
from .language_gap import LanguageDispersion, LanguageGap, gap_closed, language_dispersion, language_gap
from .metrics import DEFAULT_MEASURES, measure_name, per_query_metrics, retrieval_metrics, run_from_hits
from .mteb_model import OpticalMtebModel
from .perturbations import PERTURBATIONS, perturb, perturb_queries
from .robustness import (
    Robustness,
    RobustnessGap,
    RobustnessGapTest,
    area_under_curve,
    robustness_curve,
    robustness_gap,
    robustness_gap_test,
)
from .significance import (
    Comparison,
    bootstrap_interval,
    compare_systems,
    correct_together,
    holm,
    paired_randomisation_test,
    paired_t_test,
    runs_bootstrap_test,
)


__all__ = [
    "DEFAULT_MEASURES",
    "PERTURBATIONS",
    "Comparison",
    "Document",
    "LanguageDispersion",
    "LanguageGap",
    "OpticalMtebModel",
    "Query",
    "RetrievalDataset",
    "RetrievalEvaluator",
    "Robustness",
    "RobustnessGap",
    "RobustnessGapTest",
    "area_under_curve",
    "benchmark_names",
    "bootstrap_interval",
    "build_dataset",
    "compare_systems",
    "correct_together",
    "evaluate_module_path",
    "evaluate_rows",
    "from_bitext",
    "gap_closed",
    "holm",
    "language_dispersion",
    "language_gap",
    "load_beir",
    "load_benchmark",
    "measure_name",
    "paired_randomisation_test",
    "paired_t_test",
    "runs_bootstrap_test",
    "per_query_metrics",
    "perturb",
    "perturb_queries",
    "retrieval_metrics",
    "robustness_curve",
    "robustness_gap",
    "robustness_gap_test",
    "run_from_hits",
    "sample_pool",
]
