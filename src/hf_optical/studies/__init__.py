from .config import Method, StudyConfig
from .reading import load_study
from .runner import Failure, Study, load_records
from .store import Record, Store


__all__ = ["Failure", "Method", "Record", "Store", "Study", "StudyConfig", "load_records", "load_study"]
