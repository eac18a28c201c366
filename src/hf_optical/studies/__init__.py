"""Comparisons of training methods over languages, data sizes, seeds and test sets."""

from .runner import Failure, Study, load_records
from .settings import Method, StudyConfig
from .store import Record, Store
from .study_file import load_study


__all__ = ["Failure", "Method", "Record", "Store", "Study", "StudyConfig", "load_records", "load_study"]
