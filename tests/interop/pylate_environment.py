"""
An environment for PyLate, made by its own pins, which do not go together with those of this library.

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
# PyLate's index. It asks for one version of torch with CUDA; nothing that encodes texts needs it.
LEFT_OUT = {"fast-plaid"}


def pylate_python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made if it is not there; that takes some minutes."""
    python = folder / "bin" / "python"
    if not python.is_file() or subprocess.run([python, "-c", "import pylate.models"], capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install(python, "--no-deps", PYLATE)
        install(python, f"torch=={torch.__version__.split('+')[0]}", *pins(folder))
    return python


def install(python: Path, *what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)


def pins(folder: Path) -> list[str]:
    """What PyLate asks for, as its own package says."""
    places = [str(place) for place in folder.glob("lib/python*/site-packages")]
    (pylate,) = distributions(name="pylate", path=places)
    asked = [Requirement(line) for line in pylate.requires]
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{one.name}{one.specifier}" for one in asked if one.name not in LEFT_OUT]


if __name__ == "__main__":
    print(pylate_python(Path(sys.argv[1])))
