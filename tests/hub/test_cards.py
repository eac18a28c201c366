import re
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from tiny import tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalRetriever
from hf_optical.evaluation.results import over_languages
from hf_optical.hub import write_card
from hf_optical.hub.methods import describe
from hf_optical.languages import add_adapter, default_lora_config


RESULTS = {
    **{"eval_loss": 0.31, "eval_runtime": 3.0, "eval_plan_entropy": 2.0, "epoch": 3.0},
    **{"zero_shot_map": 0.1, "zero_shot_mrr@10": 0.2, "zero_shot_p@3": 0.25},
    **{"eval_map": 0.51236, "eval_mrr@10": 0.6, "eval_p@3": 0.5},
    **{"ceiling_map": 0.7, "ceiling_mrr@10": 0.8, "ceiling_p@3": 0.75},
    "gap_closed": 0.6872,
}
DETAILS = {
    "teacher": "org/teacher",
    "teacher_language": "en",
    "bitext": "org/bitext",
    "pairs": 7123,
    "eval_name": "retrieval/test",
    "settings": {"solver": "sinkhorn", "epsilon": 0.05},
    "steps": 12,
}
KINDS = {"language_pack": ("adapter", "hf_optical"), "model": ("finetune", "sentence-transformers")}


def card(folder, kind="language_pack", language="ha", base_model="org/base", details=DETAILS, results=RESULTS):
    write_card(folder, kind=kind, language=language, base_model=base_model, details=details, results=results)
    return (folder / "README.md").read_text(encoding="utf-8")


def tables(text):
    """The Markdown tables of a page: lists of rows of cells. A line that a blank one cuts off is no table."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().split("\n")
        if any(line.startswith("|") for line in lines):
            found.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_understands_the_metadata(tmp_path, kind):
    text = card(tmp_path, kind)
    parsed = ModelCard(text, ignore_metadata_errors=False)
    relation, library = KINDS[kind]
    assert parsed.data.language == ["ha"]
    assert (parsed.data.base_model, parsed.data.get("base_model_relation")) == ("org/base", relation)
    assert parsed.data.library_name == library
    assert parsed.data.pipeline_tag == "sentence-similarity"
    assert {"hf-optical", "late-interaction", "colbert"} <= set(parsed.data.tags)
    assert {result.metric_type: result.metric_value for result in parsed.data.eval_results} == {
        "map": 0.5124,
        "mrr@10": 0.6,
        "p@3": 0.5,
    }
    name, results = model_index_to_eval_results(metadata_load(tmp_path / "README.md")["model-index"])
    assert name == parsed.data.model_name and name.endswith("for ha")
    assert {(result.task_type, result.dataset_name) for result in results} == {
        ("information-retrieval", "retrieval/test")
    }
    assert all(value is not None for value in parsed.data.to_dict().values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_results_are_one_table(tmp_path, kind):
    text = card(tmp_path, kind)
    assert tables(text) == [
        [
            ["", "map", "mrr@10", "p@3"],
            ["---", "---:", "---:", "---:"],
            ["before training", "0.100", "0.200", "0.250"],
            ["this model", "0.512", "0.600", "0.500"],
            ["human translation, teacher", "0.700", "0.800", "0.750"],
        ]
    ]
    assert "69 %" in text
    assert "No retrieval results" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_without_results(tmp_path, kind):
    text = card(tmp_path, kind, results={"eval_loss": 0.3, "epoch": 1.0})
    parsed = ModelCard(text, ignore_metadata_errors=False)
    assert parsed.data.eval_results is None
    assert "model-index" not in text
    assert tables(text) == []
    assert "No retrieval results were measured." in text


def test_results_of_the_last_evaluation_alone(tmp_path):
    text = card(tmp_path, results={"eval_map": 0.25, "eval_recall@100": 0.5, "eval_loss": 1.0})
    assert tables(text)[0][2:] == [["this model", "0.250", "0.500"]]
    assert "Of the gap" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_several_languages_have_a_table_each_and_one_of_the_means(tmp_path, kind):
    results = {}
    for prefix, value in (("zero_shot_", 0.1), ("eval_", 0.4), ("ceiling_", 0.7)):
        own = {"ha": {"map": value, "p@3": value}, "lo": {"map": value + 0.1, "p@3": value}}
        results |= over_languages(own, prefix)
    write_card(
        *(tmp_path,),
        **{"kind": kind, "language": "niger", "languages": ["ha", "lo"], "base_model": "org/base"},
        **{"details": DETAILS, "results": results},
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    parsed = ModelCard(text, ignore_metadata_errors=False)
    assert parsed.data.language == ["ha", "lo"] and "for ha, lo\n" in text and "**ha, lo**" in text
    assert {result.metric_type: result.metric_value for result in parsed.data.eval_results} == {
        "map": 0.45,
        "p@3": 0.4,
    }
    assert [table[3] for table in tables(text)] == [
        ["this model", "0.450", "0.400"],
        ["this model", "0.400", "0.400"],
        ["this model", "0.500", "0.400"],
    ]
    assert ('language="niger"' in text) == (kind == "language_pack")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("results", [RESULTS, {}])
@pytest.mark.parametrize("details", [DETAILS, {}])
def test_the_page_is_whole(tmp_path, kind, results, details):
    text = card(tmp_path, kind, results=results, details=details)
    assert re.search(r"^# (Language pack|Late-interaction model) for ha$", text, re.M)
    for leftover in ("{{", "{%", "None", "Undefined", "\n\n\n", " \n"):
        assert leftover not in text, leftover
    assert text.count("```") % 2 == 0 and text.endswith("\n")
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings[1:] == ["## Results", "## Training", "## Limits", "## Citation"]
    assert all(f"\n\n{heading}\n\n" in text for heading in headings)
    bullets = [line for line in text.split("\n") if line.startswith("- ") and text.index(line) > text.index("## T")]
    size = kind == "language_pack"
    assert len(bullets) == 3 + size + len(details.get("settings", {}))
    assert ("`org/bitext`" in text, "7123" in text) == (bool(details), bool(details))


def test_the_size_of_a_pack_is_told(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(5_300_000))
    (tmp_path / "vocabulary.safetensors").write_bytes(bytes(7_000_000))
    assert "\n- Size: 12.3 MB\n" in card(tmp_path, "language_pack")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_told_of_the_machine(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/base", "models/teacher"):
        Path(folder).mkdir(parents=True)
    for base, teacher in [
        (str(tmp_path / "models" / "base"), tmp_path / "models" / "teacher"),
        ("models/base", "./models/teacher"),
    ]:
        text = card(
            tmp_path / "out",
            kind,
            base_model=base,
            details={**DETAILS, "teacher": str(teacher), "bitext": str(tmp_path / "train.jsonl")},
        )
        assert str(tmp_path) not in text and "models/" not in text
        assert not re.search(r"(?<![\w.:/])/(?!/)\w+/", text)
        assert "`base`" in text and "`teacher`" in text and "`train.jsonl`" in text
        data = ModelCard(text, ignore_metadata_errors=False).data
        assert data.base_model is None and data.get("base_model_relation") is None


def test_a_card_is_replaced(tmp_path):
    (tmp_path / "README.md").write_text("old")
    assert card(tmp_path) == card(tmp_path)
    assert "old" not in (tmp_path / "README.md").read_text().split()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def code(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_the_code_of_a_pack_runs(tiny, tmp_path):
    model = OpticalModel.from_pretrained(tiny)
    add_adapter(model, "sw", default_lora_config(model, rank=2))
    LanguagePack.from_model(model, "sw").save_pretrained(tmp_path)
    (block,) = code(card(tmp_path, language="sw"))
    names = {}
    exec(block.replace("REPOSITORY_OR_FOLDER", str(tmp_path)), names)
    assert isinstance(names["retriever"], OpticalRetriever) and names["retriever"].language == "sw"
    assert len(names["hits"][0]) == 2


def test_the_code_of_a_model_runs_in_both_libraries(tmp_path):
    tiny_checkpoint(tmp_path, projection_dim=16)
    ours, theirs = code(card(tmp_path, "model"))
    names = {}
    exec(ours.replace("REPOSITORY_OR_FOLDER", str(tmp_path)), names)
    assert len(names["hits"][0]) == 2
    pytest.importorskip("sentence_transformers", minversion="6")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what another library warns of is its own affair
        exec(theirs.replace("REPOSITORY_OR_FOLDER", str(tmp_path)), names)
    scores = {hit.document: hit.score for hit in names["hits"][0]}
    expected = torch.tensor([[scores[0], scores[1]]])
    assert torch.allclose(names["scores"].cpu().float(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "said", "cited", "silent"),
    [
        ("ot", "optimal transport between their token vectors", ["huang2023optical"], "ranks"),
        ("greedy", "greedy one-to-one alignment", ["li2021learning"], "optimal transport"),
        ("sentence", "distance of their mean vectors", ["reimers2020making"], "optimal"),
        ("code_switch", "rank en texts, some words of which were switched", ["litschko2023boosting"], "optimal"),
        ("hybrid", "Beside it, the student is to rank en texts", ["huang2023optical", "litschko2023boosting"], "Dr"),
    ],
)
@pytest.mark.parametrize("kind", ["language_pack", "model"])
def test_the_card_tells_the_method_that_was_used_and_no_other(tmp_path, kind, method, said, cited, silent):
    details = {"settings": {"method": method}}
    write_card(tmp_path, kind=kind, language="sw", base_model="org/base", details=details, results={})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert said in card and silent.lower() not in card.lower()
    assert re.findall(r"@\w+\{(\w+),", card) == cited


@pytest.mark.parametrize(
    ("settings", "said", "silent"),
    [
        ({"method": "greedy", "marginals": "uniform", "align_special_tokens": True}, "(as in Dr.DECR).", "but"),
        (
            {"method": "greedy", "marginals": "idf", "align_special_tokens": False},
            "(as in Dr.DECR, but with tokens weighed by inverse document frequency and special tokens left out).",
            "rank",
        ),
        ({"method": "code_switch", "ranking_target": "teacher"}, "as the frozen teacher ranks them", "relevant"),
        ({"method": "hybrid", "ranking_target": "labels"}, "the relevant one for a query before all", "teacher ranks"),
    ],
)
def test_what_the_settings_make_of_a_method(settings, said, silent):
    text = describe(settings, "en")
    assert said in text and silent not in text and "{" not in text
