"""Test sets by name, through the libraries that keep them, and test sets made of what is at hand."""

from .derived import from_bitext, sample_pool
from .loading import benchmark_names, load_benchmark


__all__ = ["benchmark_names", "from_bitext", "load_benchmark", "sample_pool"]
