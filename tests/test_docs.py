"""What the pages in `docs/` show runs as it stands."""

from __future__ import annotations

import re

import pytest
from tiny import REPOSITORY

from hf_optical.studies import load_study


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_snippets_on_measuring_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    scope: dict = {"__name__": "docs"}
    for snippet in blocks("evaluation.md", "python"):
        exec(compile(snippet, "evaluation.md", "exec"), scope)
    assert scope["comparison"].winner == "translated by a person"
    assert "'AP'" in capsys.readouterr().out


def test_every_key_of_a_study_is_read(tmp_path):
    (block,) = blocks("evaluation.md", "yaml")
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    # All that stops it is that its files are not here.
    with pytest.raises(ValueError, match="data files are missing"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "docs" / "studies").glob("*/study.yaml")), ids=lambda p: p.parent.name
)
def test_the_studies_can_be_run_again(path):
    with pytest.raises(ValueError, match="data files are missing"):
        load_study(path)
