from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import REPOSITORY


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the site, built without warnings."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder
