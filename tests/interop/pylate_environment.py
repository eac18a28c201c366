"""
An environment for PyLate, whose pinned requirements conflict with those of this library.

    python tests/interop/pylate_environment.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import torch
from packaging.requirements import Requirement


PYLATE = "pylate==1.6.0"
# PyLate's index requires one version of torch with CUDA; encoding does not need it.
LEFT_OUT = {"fast-plaid"}


def pylate_python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is created if missing (takes some minutes)."""
    python = folder / "bin" / "python"
    if not python.is_file() or subprocess.run([python, "-c", "import pylate.models"], capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install(python, "--no-deps", PYLATE)
        install(python, f"torch=={torch.__version__.split('+')[0]}", *pins(folder))
    return python


def install(python: Path, *requirements: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)


def pins(folder: Path) -> list[str]:
    """The requirements in PyLate's metadata."""
    places = [str(place) for place in folder.glob("lib/python*/site-packages")]
    (pylate,) = distributions(name="pylate", path=places)
    requirements = [Requirement(line) for line in pylate.requires]
    required = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [f"{each.name}{each.specifier}" for each in required if each.name not in LEFT_OUT]


if __name__ == "__main__":
    print(pylate_python(Path(sys.argv[1])))
