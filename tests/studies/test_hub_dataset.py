"""A study as a dataset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from study_records import record, references

from hf_optical.errors import DataError
from hf_optical.studies.hub_dataset import PLACE, publish_study, write_dataset
from hf_optical.studies.public import without_local_paths


pytest.importorskip("matplotlib")

from hf_optical.studies.report import write_report  # noqa: E402


@pytest.fixture
def config(load):
    return load(
        title="A small study", measures=["AP"], notes="Kept in /home/somebody/notes/small.txt.", sizes=[30, None]
    )


@pytest.fixture
def records():
    asked = [record("OT", 0.5, "sw", kind="ot", size=size, seed=seed) for size in (30, None) for seed in (1, 2)]
    return [
        *references(["sw"]),
        *asked,
        record("OT", 0.4, "sw", kind="ot", perturbation="typos", strength=0.1, seed=1),
    ]


@pytest.fixture
def reported(config, records, tmp_path) -> Path:
    unfinished = [f"failed: ask other: OSError: {tmp_path}/models/other is missing\n{tmp_path}/line"]
    return write_report(tmp_path / "out", config, records, unfinished=unfinished).parent


@pytest.fixture
def dataset(reported, config, records, tmp_path) -> Path:
    write_dataset(tmp_path / "dataset", reported, config, records, license="cc-by-4.0")
    return tmp_path / "dataset"


def test_all_values_can_be_loaded_and_the_code_of_the_card_runs(dataset, records):
    values = load_dataset(str(dataset), split="train").to_pandas()
    assert len(values) == sum(len(each.values["AP"]) for each in records)
    runs = load_dataset(str(dataset), "runs", split="train")
    assert [row["AP"] for row in runs] == [pytest.approx(each.mean("AP"), abs=1e-12) for each in records]
    for each in records:
        own = values[(values.method == each.method) & (values.strength == each.strength)]
        own = own[own["size"].isna() if each.size is None else own["size"] == each.size]
        own = own[own.seed.isna() if each.seed is None else own.seed == each.seed]
        assert dict(zip(own["query"], own.AP, strict=True)) == each.values["AP"]
        assert {tuple(codes) for codes in own.languages} == {each.languages}
    card = (dataset / "README.md").read_text(encoding="utf-8")
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(code.replace(PLACE, str(dataset)), names)
    assert list(names["by_query"].columns) == ["OT", "ceiling", "zero_shot"] and len(names["by_query"]) == 40
    assert names["runs"].num_rows == 7


def test_card(dataset, reported):
    card = DatasetCard.load(dataset / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (
        data["pretty_name"] == "A small study" and data["language"] == ["sw", "en"] and data["license"] == "cc-by-4.0"
    )
    assert [each["config_name"] for each in data["configs"]] == ["per_query", "runs"]
    assert "## What this says\n\n- **questions.**" in card.text and "no stated licence" not in card.text
    shown = re.findall(r"\(((?:figures/)?[^():]+\.(?:png|md|json))\)", card.text)
    assert len(shown) > 3 and all((dataset / name).is_file() for name in shown)
    assert "\n\n\n" not in card.content and "{{" not in card.content


def test_published_settings_load_the_same_study_without_local_paths(dataset, config, load, tmp_path):
    content = yaml.safe_load((dataset / "study.yaml").read_text(encoding="utf-8"))
    assert "data_dir" not in content and content["teacher"] == Path(config.teacher).name
    data_dir = config.corpora["sentences"]["sw"].parent
    again = load(**{**content, "teacher": config.teacher, "data_dir": str(data_dir)})
    assert again == config.model_copy(update={"notes": "Kept in small.txt.", "file": again.file})
    secrets = [str(tmp_path), str(Path.home()) + "/", "/home/somebody"]
    for file in dataset.rglob("*"):
        if file.is_file():
            assert not [secret for secret in secrets if secret.encode() in file.read_bytes()], file
    assert "OSError: other is missing" in (dataset / "report.md").read_text(encoding="utf-8")


def test_paths_are_shortened_to_their_last_part():
    for text, expected in (
        ("OSError: '/home/a/b c", "OSError: 'b c"),
        ("teacher:/home/a/b c", "teacher:b c"),
        ("in file:///home/a/b.json, ~/a/b/ and (/a/b)", "in b.json, b and (b)"),
        ("https://a.org/b/c, a/b/c, 3/4, figures/a.png, and/or",) * 2,
    ):
        assert without_local_paths(text) == expected


def test_publishing_without_results_or_a_licence(reported, config, records, tmp_path):
    with pytest.raises(DataError, match="the study small has no results to publish"):
        publish_study(reported, "org/small", config, [])
    with pytest.raises(DataError, match=r"has no report.md; write the report first"):
        publish_study(tmp_path, "org/small", config, records)
    with pytest.raises(ValueError, match="Repo id must use .*'org/sm all'"):
        publish_study(reported, "org/sm all", config, records)
    write_dataset(tmp_path / "dataset", reported, config, records, repo_id="org/small")
    card = DatasetCard.load(tmp_path / "dataset" / "README.md")
    assert card.data.license is None and "- These values have no stated licence" in card.text
    assert 'load_dataset("org/small", "per_query"' in card.text
