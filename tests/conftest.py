"""Fixtures for all tests; the models come from `tiny.py`."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest


# Deadlines fail on busy machines.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# The caches of a test run are deleted with it. `datasets` reads this at import, also in processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="hf_optical-tests-", ignore_cleanup_errors=True)
os.environ["HF_DATASETS_CACHE"] = _CACHE.name
atexit.register(_CACHE.cleanup)

# Parallel test processes share the cores; torch reads this at import.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tiny import tiny_checkpoint  # noqa: E402

from hf_optical import OpticalModel, OpticalProcessor  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def warnings_are_errors_in_other_processes():
    """Like `filterwarnings` for this process; set here because it must not apply to the workers of pytest-xdist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error")
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny BERT checkpoint, the usual student and teacher."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_model(tiny) -> OpticalModel:
    return OpticalModel.from_pretrained(tiny)


@pytest.fixture
def tiny_processor(tiny) -> OpticalProcessor:
    return OpticalProcessor.from_pretrained(tiny)


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
