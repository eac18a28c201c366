from __future__ import annotations

import logging

import pytest
from transformers.utils import logging as transformers_logging


@pytest.fixture
def quiet():
    """Fail the test if transformers logs a warning."""
    messages = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert messages == []
