from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import hf_optical


def test_public_names_are_importable():
    for name in hf_optical.__all__:
        assert getattr(hf_optical, name) is not None
    assert set(hf_optical.__all__) == set(dir(hf_optical))


def test_importing_the_package_is_light():
    code = "import sys, hf_optical; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_type_hints_and_templates_are_installed():
    assert files("hf_optical").joinpath("py.typed").is_file()
    cards = {path.name for path in files("hf_optical.hub_cards").iterdir()}
    assert {"language_pack.md", "model.md", "student.md"} <= cards
    assert files("hf_optical.studies").joinpath("report.md").is_file()
