"""Fixtures for every test. What they are made of is in `tiny.py`."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest


# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Caches of a test run go with it; `datasets` reads this when it is imported, here and in processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="hf_optical-tests-", ignore_cleanup_errors=True)
os.environ["HF_DATASETS_CACHE"] = _CACHE.name
atexit.register(_CACHE.cleanup)

# Processes that share the work share the cores too; torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tiny import tiny_checkpoint  # noqa: E402

from hf_optical import OpticalModel, OpticalProcessor  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def warnings_are_errors_in_other_processes():
    """As `filterwarnings` makes them in this one; not set earlier, for it would hold for pytest's own workers too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error")
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny BERT checkpoint: the usual student and teacher of these tests."""
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
