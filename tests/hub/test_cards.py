from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from packs import make_pack
from tiny import tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalRetriever
from hf_optical.hub import write_card
from hf_optical.languages import Vocabulary, add_adapter, default_lora_config
from hf_optical.methods import card_text


def results(shift: float = 0.0) -> dict:
    return {
        "dataset": "retrieval/test",
        "queries": 96,
        "level": 0.95,
        "measures": {
            "map": {"zero_shot": 0.1, "trained": 0.51236 + shift, "interval": [0.41237, 0.6], "ceiling": 0.7},
            "mrr@10": {"zero_shot": 0.2, "trained": 0.6, "interval": [0.5, 0.7], "ceiling": 0.8},
            "recall@100": {"zero_shot": 0.25, "trained": 0.5, "interval": [0.4, 0.6], "ceiling": 0.75},
        },
        "gap_closed": 0.6872,
    }


DETAILS = {
    "teacher": "org/teacher",
    "teacher_revision": "0123abc",
    "teacher_language": "en",
    "bitext": "org/bitext",
    "bitext_license": "cc-by-4.0",
    "pairs": 7123,
    "scripts": ["Arabic", "Latin"],
    "settings": {"solver": "sinkhorn", "epsilon": 0.05, "seed": 42, "side": "query"},
    "seconds": 3725.4,
    "hardware": "2 x NVIDIA H200",
    "license": "apache-2.0",
    "note": "Made for a demonstration.",
    "steps": 12,
    "results": {"ha": results()},
}
KINDS = {"language_pack": ("adapter", "hf_optical"), "model": ("finetune", "sentence-transformers")}


def card(folder, kind="language_pack", languages=("ha",), base_model="org/base", details=DETAILS, **more):
    write_card(folder, kind=kind, languages=list(languages), base_model=base_model, details=details, **more)
    return (folder / "README.md").read_text(encoding="utf-8")


def tables(text):
    """Markdown tables of a page, as lists of rows of cells; a blank line ends a table."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().split("\n")
        if any(line.startswith("|") for line in lines):
            found.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_hub_parses_metadata(tmp_path, kind):
    text = card(tmp_path, kind)
    parsed = ModelCard(text, ignore_metadata_errors=False)
    relation, library = KINDS[kind]
    assert (parsed.data.language, parsed.data.license) == (["ha"], "apache-2.0")
    assert (parsed.data.base_model, parsed.data.get("base_model_relation")) == ("org/base", relation)
    assert (parsed.data.library_name, parsed.data.datasets) == (library, ["org/bitext"])
    assert parsed.data.pipeline_tag == "sentence-similarity"
    assert {"hf-optical", "late-interaction", "multi-vector", "colbert"} <= set(parsed.data.tags)
    name, found = model_index_to_eval_results(metadata_load(tmp_path / "README.md")["model-index"])
    assert found == parsed.data.eval_results
    assert name == parsed.data.model_name and name.endswith("for Hausa (ha)")
    assert {(result.task_type, result.dataset_name, result.dataset_config) for result in found} == {
        ("information-retrieval", "retrieval/test", "ha")
    }
    assert {result.metric_type: result.metric_value for result in found} == {
        "map": 0.5124,
        "mrr@10": 0.6,
        "recall@100": 0.5,
    }
    assert found[0].metric_args == {"queries": 96, "interval": [0.4124, 0.6], "level": 0.95}
    assert all(value is not None for value in parsed.data.to_dict().values())
    again = ModelCard(str(parsed), ignore_metadata_errors=False)
    assert again.data.to_dict() == parsed.data.to_dict() and again.text == parsed.text


def test_results_are_one_table_with_intervals(tmp_path):
    text = card(tmp_path)
    assert tables(text) == [
        [
            ["", "MAP", "MRR@10", "Recall@100"],
            ["---", "---:", "---:", "---:"],
            ["before training", "0.100", "0.200", "0.250"],
            ["**after training**", "**0.512** [0.412, 0.600]", "**0.600** [0.500, 0.700]", "**0.500** [0.400, 0.600]"],
            ["teacher with human translations", "0.700", "0.800", "0.750"],
        ]
    ]
    section = text.split("## Results")[1].split("\n## ")[0]
    for expected in ("96 queries of `retrieval/test`", "69 %", "95 % bootstrap", "seed 42"):
        assert expected in section, expected
    assert "The teacher encoded the documents" in section and "No retrieval results" not in text
    assert "only 96 queries" in text


@pytest.mark.parametrize(("kind", "details"), [("language_pack", {}), ("model", {**DETAILS, "results": None})])
def test_card_without_results_says_so(tmp_path, kind, details):
    text = card(tmp_path, kind, details=details)
    parsed = ModelCard(text, ignore_metadata_errors=False)
    assert parsed.data.eval_results is None
    assert "model-index" not in text
    assert tables(text) == []
    assert "No retrieval results were measured." in text and "bootstrap" not in text and "wide intervals" not in text


def test_results_may_be_means_only(tmp_path):
    measured = {"dataset": "big/test", "queries": 3000, "measures": {"map": {"trained": 0.25}, "AP": {"trained": 0.5}}}
    text = card(tmp_path, details={**DETAILS, "results": {"ha": measured}})
    assert tables(text)[0][2:] == [["**after training**", "**0.250**", "**0.500**"]]
    assert "3,000 queries of `big/test`.\n" in text
    assert "gap in MAP" not in text and "bootstrap" not in text and "wide intervals" not in text
    found = ModelCard(text, ignore_metadata_errors=False).data.eval_results
    assert [result.metric_args for result in found] == [{"queries": 3000}] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_language_has_its_own_table(tmp_path, kind):
    found = {"ha": results(), "lo": {**results(shift=0.1), "queries": 300}}
    text = card(tmp_path, kind, ["ha", "lo"], details={**DETAILS, "results": found}, code="niger")
    parsed = ModelCard(text, ignore_metadata_errors=False)
    assert (
        parsed.data.language == ["ha", "lo"]
        and "for Hausa (ha), Lao (lo)\n" in text
        and "**Hausa (ha), Lao (lo)**" in text
    )
    values = {(result.dataset_config, result.metric_type): result for result in parsed.data.eval_results}
    assert (values["ha", "map"].metric_value, values["lo", "map"].metric_value) == (0.5124, 0.6124)
    assert (values["ha", "map"].metric_args["queries"], values["lo", "map"].metric_args["queries"]) == (96, 300)
    assert [table[3][1] for table in tables(text)] == ["**0.512** [0.412, 0.600]", "**0.612** [0.412, 0.600]"]
    assert "**ha**: 96 queries" in text and "**lo**: 300 queries" in text
    assert ('language="niger"' in text) == (kind == "language_pack")


def test_only_iso_codes_are_languages_in_metadata(tmp_path):
    text = card(tmp_path, languages=["sw_TZ", "swa-Latn", "sw", "demo2", "Hausa"])
    assert ModelCard(text, ignore_metadata_errors=False).data.language == ["sw", "swa"]


@pytest.mark.parametrize(
    ("kind", "details", "base_model"),
    [
        ("language_pack", DETAILS, "org/base"),
        ("language_pack", {}, ""),
        ("model", {**DETAILS, "results": {}}, "org/teacher"),
        ("model", DETAILS, ""),
    ],
)
def test_page_has_all_sections_and_no_leftovers(tmp_path, kind, details, base_model):
    text = card(tmp_path, kind, base_model=base_model, details=details)
    assert re.search(r"^# (Language pack|Late-interaction model) for Hausa \(ha\)$", text, re.M)
    for leftover in ("{{", "{%", "{#", "Undefined", "\n\n\n", " \n", " ,", " .", "..\n"):
        assert leftover not in text, leftover
    assert "None" not in text
    assert text.count("```") % 2 == 0 and text.endswith("\n") and text.startswith("---\n")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == (
        ["Results", "How to use it", "Training", "Limits", "Licence", "Citation"]
        if details.get("settings")
        else ["Results", "How to use it", "Limits"]
    )
    assert all(f"\n\n## {heading}\n\n" in text for heading in headings)
    if details.get("settings"):
        assert "> Made for a demonstration.\n" in text and "are in Arabic and Latin script" in text
        assert "- **Sentence pairs:** 7,123 from [org/bitext](https://huggingface.co/datasets/org/bitext)" in text
        assert "licence `cc-by-4.0`\n" in text and "- **Time:** 1 h 2 min on 2 x NVIDIA H200\n" in text
        assert "solver `sinkhorn`, epsilon `0.05`, seed `42`" in text
        teaches = base_model == "org/teacher"
        assert ("**Base and teacher:** [org/teacher]" in text, "**Teacher:** [org/teacher]" in text) == (
            teaches,
            not teaches,
        )


def test_commits_of_base_and_teacher_and_the_repository_are_on_card(tmp_path):
    text = card(tmp_path, base_revision="fedc987", repo_id="me/student")
    assert '"me/student"' in text and "REPOSITORY_OR_FOLDER" not in text
    assert "- **Base:** [org/base](https://huggingface.co/org/base) at revision `fedc987`\n" in text
    assert (
        "- **Teacher:** [org/teacher](https://huggingface.co/org/teacher) at revision `0123abc`, which reads" in text
    )


def test_card_gives_size_and_parts_of_pack(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(5_300_000))
    assert "a LoRA adapter, 5.3 MB" in card(tmp_path)
    (tmp_path / "vocabulary.safetensors").write_bytes(bytes(7_000_000))
    text = card(tmp_path)
    assert "a LoRA adapter and new words, 12.3 MB" in text
    assert "training.png" not in text and "](training.png)" not in card(tmp_path, details={})
    (tmp_path / "training.png").write_bytes(b"")
    assert "](training.png)" in card(tmp_path)


def test_card_has_no_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/base", "models/teacher"):
        Path(folder).mkdir(parents=True)
    for base, teacher in [
        (str(tmp_path / "models" / "base"), tmp_path / "models" / "teacher"),
        ("models/base", "./models/teacher"),
    ]:
        text = card(
            tmp_path / "out",
            base_model=base,
            details={**DETAILS, "teacher": str(teacher), "bitext": str(tmp_path / "train.jsonl")},
        )
        assert str(tmp_path) not in text and "models/" not in text
        assert not re.search(r"(?<![\w.:/])/(?!/)\w+/", text)
        assert "`base`" in text and "`teacher`" in text and "`train.jsonl`" in text
        assert "WHERE_THE_TEACHER_IS" in text
        data = ModelCard(text, ignore_metadata_errors=False).data
        assert data.base_model is None and data.get("base_model_relation") is None and data.datasets is None


def test_name_without_namespace_needs_commit_to_be_a_hub_id(tmp_path):
    for revision, linked in ((None, False), ("fedc987", True)):
        text = card(tmp_path, base_model="bert-base-uncased", base_revision=revision)
        data = ModelCard(text, ignore_metadata_errors=False).data
        assert data.base_model == ("bert-base-uncased" if linked else None)
        assert ("](https://huggingface.co/bert-base-uncased)" in text) == linked


def test_card_replaces_earlier_one(tmp_path):
    (tmp_path / "README.md").write_text("old")
    assert card(tmp_path) == card(tmp_path)
    assert "old" not in (tmp_path / "README.md").read_text().split()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


HOSTILE = 'x"]); evil() #\n\n# Evil\n```\n---\n</code><script>evil()</script> ![](http://evil) [a](b) `evil()` | a |'


def python_of(text: str) -> list[ast.Module]:
    return [ast.parse(block) for block in re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)]


@pytest.mark.promise(
    "Safety",
    "Text from a pack cannot add code or markup to a card: in code it is a string, in prose one plain line. Details "
    "of the wrong type are refused when a pack is opened or saved and when a card is written.",
)
@pytest.mark.parametrize(("kind", "packs"), [("language_pack", False), ("model", False), ("model", True)])
def test_hostile_text_adds_no_code_or_markup(tmp_path, kind, packs):
    texts = ("teacher", "teacher_revision", "teacher_language", "bitext", "bitext_license", "hardware", "license")
    details = {
        **{**DETAILS, **dict.fromkeys((*texts, "note"), HOSTILE), "scripts": [HOSTILE]},
        "settings": {"method": "ot", "loss": HOSTILE, "seed": HOSTILE, HOSTILE: HOSTILE, "table": [HOSTILE]},
        "results": {HOSTILE: {**results(), "dataset": HOSTILE, "table": HOSTILE, "language": HOSTILE}},
    }
    details["results"][HOSTILE]["measures"] = {HOSTILE: results()["measures"]["map"]}
    if packs:
        (tmp_path / "language_packs" / "ha").mkdir(parents=True)
    base = f"base {HOSTILE}"
    text = card(tmp_path, kind, [HOSTILE, "lo"], base, details, code=HOSTILE, base_revision=HOSTILE, repo_id=HOSTILE)
    other = {**DETAILS, "settings": {"loss": "mine"}}
    plain = card(tmp_path, kind, ["sw", "lo"], "org/base", other, code="sw", repo_id="me/x")
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.license.split() == data.eval_results[0].dataset_config.split() == HOSTILE.split()
    page = text.split("\n---\n", 1)[1]
    assert re.findall(r"^#.*$", page, re.M)[1:] == re.findall(r"^#.*$", plain.split("\n---\n", 1)[1], re.M)[1:]
    # The same calls, of other strings.
    blocks, expected = python_of(page), python_of(plain)
    assert len(blocks) == len(expected) >= 3
    for found, wanted in zip(blocks, expected, strict=True):
        strings = [node for tree in (found, wanted) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        for node in strings:
            node.value = None
        assert ast.dump(found) == ast.dump(wanted)
    prose = re.sub(r"^```.*?^```$|(?<!\\)`[^`\n]*`", "", page, flags=re.S | re.M)
    assert "<" not in prose.replace("&lt;", "") and not re.search(r"(?<!\\)\[(?=[\]a])", prose)
    (table,) = (block for block in page.split("\n\n") if block.startswith("|"))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()} == {3}
    assert max(len(line) for line in page.splitlines() if line.startswith(">")) < 200


def test_text_in_any_script_stays_readable(tmp_path):
    note = "Maswali 96 — أسئلة، 質問; 5 % < 6 %, C# & a_b."
    text = card(tmp_path, languages=["漢字"], details={"note": note, "hardware": "x"})
    assert "> Maswali 96 — أسئلة، 質問; 5 % &lt; 6 %, C\\# & a_b.\n" in text
    assert '["A question in 漢字"]' in text
    assert '["A question in \\u202ea\\u200bb\\x60"]' in card(tmp_path, languages=["\u202ea\u200bb`"])


@pytest.mark.parametrize(
    ("details", "named"),
    [
        ([], "details"),
        ({"results": {"sw": {**results(), "measures": {"map": {"trained": 10**400}}}}}, "sw.measures.map.trained"),
        ({"results": {"sw": {**results(), "measures": {"map": {"trained": 1, "interval": [1]}}}}}, "map.interval"),
        ({"results": {"sw": {**results(), "gap_closed": float("nan")}}}, "details.results.sw.gap_closed"),
        ({"settings": {"method": ["ot"]}}, "details.settings.method"),
        ({"seconds": float("inf")}, "details.seconds"),
        ({"note": "\ud800"}, "details.note"),
        ({"a\x1b[31m": "\ud800"}, r"details.a\\x1b\[31m"),
        ({"base_dtype": "float32)\nimport os; os.system('true'"}, "details.base_dtype"),
    ],
    ids=str,
)
def test_invalid_details_are_named(tmp_path, details, named):
    with pytest.raises(ValueError, match=f"missing or of the wrong type: .*{named}"):
        card(tmp_path, details=details)
    assert not (tmp_path / "README.md").exists()


def test_unknown_method_is_not_described(tmp_path):
    details = {**DETAILS, "settings": {"method": "later", "seed": 1}, "teacher_language": None}
    text = card(tmp_path, details=details)
    assert "## Training\n\n- **Base:**" in text and "method `later`, seed `1`" in text
    assert "which reads English" in text
    assert "## Citation" not in text and "optimal-transport" not in text
    assert "## Training" not in card(tmp_path, details={"settings": None, "scripts": None, "seconds": None})
    with pytest.raises(ValueError, match="kind must be one of 'language_pack', 'model', got 'study'"):
        card(tmp_path, "study")


def snippets(text: str, names: dict, **places: Path) -> list[str]:
    """Run the Python code on a card block by block, except PyLate's, which needs its own environment."""
    ran = []
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for placeholder, place in places.items():
            block = block.replace(placeholder, str(place))
        assert not re.search(r"[A-Z]+_[A-Z_]{4,}", block), f"unknown placeholder: {block}"
        if "pylate" not in block:
            exec(block, names)
        ran.append(block)
    return ran


@pytest.fixture
def open_in_other_libraries(monkeypatch, tmp_path):
    """Ignore warnings of other libraries, and run in a temporary folder."""
    pytest.importorskip("sentence_transformers", minversion="6")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_code_loads_base_in_its_dtype(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack = make_pack(tiny, "sw", 1, dtype=torch.bfloat16)
    pack.save_pretrained("pack")
    pack.write_card("pack")
    retriever = OpticalRetriever.from_pretrained("pack", dtype=torch.bfloat16)
    retriever._save_for_hub(tmp_path / "retriever", "retriever")
    for folder in ("pack", "retriever"):
        search = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(encoding="utf-8"), re.S)[0]
        names: dict = {}
        exec(search.replace("REPOSITORY_OR_FOLDER", folder), names)
        assert names["retriever"].model.dtype == torch.bfloat16
    assert "dtype" not in card(tmp_path / "other")


@pytest.mark.parametrize("new_words", [False, True])
def test_code_on_pack_card_runs(tiny, tmp_path, new_words, open_in_other_libraries):
    model = OpticalModel.from_pretrained(tiny)
    words = Vocabulary(["swali", "kiswahili"], torch.randn(2, model.embedding_dim), model.encoder.config.vocab_size)
    config = default_lora_config(model, rank=2, embeddings=not new_words)
    add_adapter(model, "sw", config, words if new_words else None)
    pack = LanguagePack.from_model(model, "sw")
    pack.save_pretrained(tmp_path / "pack")
    names = {}
    text = card(tmp_path / "pack", languages=["sw"], base_model="unknown/base", details={}, code="sw")
    text = text.replace("unknown/base", str(tiny))
    blocks = snippets(text, names, REPOSITORY_OR_FOLDER=tmp_path / "pack")
    assert ["peft" in block for block in blocks].count(True) == (not new_words)
    assert isinstance(names["retriever"], OpticalRetriever) and names["retriever"].language == "sw"
    assert names["hit"].document in (0, 1)
    (merged,), (own,) = names["queries"], names["retriever"].encode_queries(["A question in Swahili"])
    assert torch.allclose(torch.as_tensor(merged), own, atol=1e-5)
    if not new_words:
        assert torch.allclose(torch.nn.functional.normalize(names["states"][0], dim=-1), own, atol=1e-5)


@pytest.mark.parametrize(("projection_dim", "details"), [(None, {}), (16, {**DETAILS, "teacher": "org/teacher"})])
def test_code_on_model_card_runs(tmp_path, projection_dim, details, open_in_other_libraries):
    folder = tiny_checkpoint(tmp_path / "model", projection_dim=projection_dim)
    teacher = tiny_checkpoint(tmp_path / "teacher", projection_dim=projection_dim, seed=1) if details else folder
    names = {}
    text = card(folder, "model", details=details).replace('("org/teacher")', f'("{teacher}")')
    blocks = snippets(text, names, REPOSITORY_OR_FOLDER=folder)
    assert [re.search(r"from (\w+)", block)[1] for block in blocks] == [
        "hf_optical",
        "sentence_transformers",
        "pylate",
        "safetensors",
    ]
    # transformers, this library and sentence-transformers agree.
    assert torch.allclose(names["vectors"][0], names["queries"][0], atol=1e-5)
    retriever, texts = OpticalRetriever.from_pretrained(folder, device="cpu"), names["documents"]
    (hits,) = retriever.search(["A question in Hausa"], texts)
    expected = torch.tensor([[score for _, score in sorted((hit.document, hit.score) for hit in hits)]])
    assert torch.allclose(names["scores"].cpu().float(), expected, atol=1e-4)
    read = OpticalRetriever.from_pretrained(teacher, device="cpu").encode_documents(texts)
    (hits,) = retriever.search(names["queries"], read)
    assert (names["hit"].document, names["hit"].score) == (hits[0].document, hits[0].score)


def test_code_on_retriever_card_loads_its_packs(tiny, tmp_path, open_in_other_libraries):
    model = OpticalModel.from_pretrained(tiny)
    add_adapter(model, "sw", default_lora_config(model, rank=2))
    retriever = OpticalRetriever.from_pretrained(tiny)
    retriever.add_language("sw", LanguagePack.from_model(model, "sw"))
    retriever.save_pretrained(tmp_path / "retriever")
    text = card(tmp_path / "retriever", "model", languages=["sw"], details={})
    assert "language packs for **sw**" in text and 'retriever.merge("sw")' in text
    names = {}
    snippets(text, names, REPOSITORY_OR_FOLDER=tmp_path / "retriever")
    assert names["retriever"].languages == ["sw"]


def test_documents_are_encoded_by_teacher_that_is_not_the_base(tmp_path):
    (tmp_path / "language_packs" / "ha").mkdir(parents=True)
    for base, teaches in (("org/teacher", False), ("org/base", True)):
        text = card(tmp_path, "model", base_model=base)
        assert ('teacher = OpticalRetriever.from_pretrained("org/teacher")' in text) == teaches
        assert ("documents with the teacher." in text) == teaches
        assert ("documents with the base alone." in text) != teaches


def test_peft_code_of_pack_in_retriever_uses_subfolder(tmp_path):
    within = card(tmp_path / "language_packs" / "ha", repo_id="me/retriever")
    assert 'PeftModel.from_pretrained(encoder, "me/retriever", subfolder="language_packs/ha")' in within
    assert 'PeftModel.from_pretrained(encoder, "me/pack")' in card(tmp_path / "pack", repo_id="me/pack")


def test_card_distinguishes_merged_and_fully_trained_models(tmp_path):
    pack = {**DETAILS, "settings": {**DETAILS["settings"], "lora_rank": 32}}
    assert "with a language pack merged into its weights." in card(tmp_path, "model", details=pack)
    assert "with all weights trained." in card(tmp_path, "model")


def test_card_says_that_other_libraries_lack_nearest_words(tmp_path):
    for kind, file in (("language_pack", "vocabulary.safetensors"), ("model", "nearest_words.json")):
        expected = "the most similar known word for an unknown one"
        assert expected not in card(tmp_path / kind, kind)
        (tmp_path / kind / file).write_bytes(b"")
        assert expected in card(tmp_path / kind, kind)


@pytest.mark.parametrize(
    ("method", "expected", "cited", "absent"),
    [
        ("ot", "optimal transport between their token vectors", ["huang2023optical"], "ranks"),
        ("greedy", "greedy one-to-one alignment", ["li2021learning"], "optimal transport"),
        ("sentence", "distance of their mean vectors", ["reimers2020making"], "optimal"),
        ("code_switch", "rank English texts, some words of which were switched", ["litschko2023boosting"], "optimal"),
        (
            "hybrid",
            "In addition, the student learns to rank English",
            ["huang2023optical", "litschko2023boosting"],
            "Dr",
        ),
    ],
)
def test_card_describes_only_the_method_that_was_used(tmp_path, method, expected, cited, absent):
    text = card(tmp_path, languages=["sw"], details={"settings": {"method": method}})
    assert expected in text and absent.lower() not in text.lower()
    assert re.findall(r"@\w+\{(\w+),", text) == cited


@pytest.mark.parametrize(
    ("settings", "expected", "absent"),
    [
        ({"method": "greedy", "marginals": "uniform", "align_special_tokens": True}, "(as in Dr.DECR).", "but"),
        (
            {"method": "greedy", "marginals": "idf", "align_special_tokens": False},
            "(as in Dr.DECR, but with tokens weighted by inverse document frequency and special tokens left out).",
            "rank",
        ),
        ({"method": "code_switch", "ranking_target": "teacher"}, "as the frozen teacher ranks them", "relevant"),
        ({"method": "hybrid", "ranking_target": "labels"}, "the relevant one for a query before all", "teacher ranks"),
    ],
)
def test_description_of_method_depends_on_settings(settings, expected, absent):
    text = card_text(settings, "English", "").text
    assert expected in text and absent not in text and "{" not in text
