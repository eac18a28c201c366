"""Test sets by name, from the libraries that distribute them or from local data."""

from ..sampling import sample_pool
from .derived import from_bitext
from .loading import benchmark_names, load_benchmark


__all__ = ["benchmark_names", "from_bitext", "load_benchmark", "sample_pool"]
