from __future__ import annotations

import logging

import pytest
from transformers.utils import logging as transformers_logging


@pytest.fixture
def quiet():
    """Whatever transformers logs as a warning fails the test."""
    messages = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert messages == []
