from __future__ import annotations

import pytest
import yaml
from tiny import DEMO

from hf_optical.errors import DataError
from hf_optical.studies import load_study


def test_reads_a_study(load, tiny):
    config = load(seeds=[1, 2], sizes=[10, None], perturbations={"typos": [0.1, 0.2]}, groups={"low": ["sw"]})
    assert config.teacher == config.student == str(tiny)
    assert config.corpora == {"sentences": {"sw": DEMO / "train.jsonl"}}
    assert config.language_sets == [("sw",)] and config.languages == ["sw"]
    assert config.sizes == [10, None] and config.seeds == [1, 2] and config.perturbations == {"typos": [0.1, 0.2]}
    assert config.measures == ["AP", "RR@10", "nDCG@10", "R@100"]
    source = config.tests["questions"]["sw"]
    assert (source.kind, source.split, source.queries, source.pool) == ("folder", "test", 8, 30)
    assert {method.name: method.kind for method in config.methods.values()} == {
        "before": "zero_shot",
        "OT": "trained",
        "ceiling": "ceiling",
    }


def test_methods_may_be_a_list_of_kinds(load):
    config = load(methods=["zero_shot", "ot", "hybrid", "lexicon", "bm25"])
    kinds = ["zero_shot", "trained", "trained", "lexicon", "bm25"]
    assert [method.kind for method in config.methods.values()] == kinds
    assert config.methods["hybrid"].settings == {"method": "hybrid"}
    assert config.methods["bm25"].settings["stemmer"] == "english"


def test_paths_are_relative_to_the_file_or_to_data_dir(content, tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    (tmp_path / "data").symlink_to(DEMO)
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, "data_dir": "../data"}), encoding="utf-8")
    assert load_study(folder / "study.yaml").corpora["sentences"]["sw"] == folder / "../data" / "train.jsonl"
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, "data_dir": "nowhere"}), encoding="utf-8")
    assert load_study(folder / "study.yaml", DEMO).corpora["sentences"]["sw"] == DEMO / "train.jsonl"
    with pytest.raises(DataError, match=r"4 data files are missing: .*train\.jsonl.*queries\.jsonl.*\.tsv.*corpus"):
        load_study(folder / "study.yaml")


def test_folders_of_models_are_relative_to_data_dir(load):
    config = load(
        methods={
            "NLLB": {"kind": "translation", "model": "retrieval"},
            "OT": {"kind": "trained", "init_pack": "retrieval"},
            "from the Hub": {"kind": "trained", "init_pack": "org/pack"},
        },
        training={"init_pack": "retrieval"},
    )
    found = {name: method.settings for name, method in config.methods.items()}
    folder = str(DEMO / "retrieval")
    assert found["NLLB"] == {"model": folder} and found["OT"] == config.training == {"init_pack": folder}
    assert found["from the Hub"] == {"init_pack": "org/pack"}


def test_language_sets_replace_languages(load):
    corpora = {"both": {"sw": "train.jsonl", "lo": "validation.jsonl"}}
    tests = {"pairs": {code: {"bitext": "validation.jsonl"} for code in ("sw", "lo")}}
    assert load(corpora=corpora, tests=tests).language_sets == [("sw",), ("lo",)]
    assert load(corpora=corpora, tests=tests, languages=["lo"]).language_sets == [("lo",)]
    sets = load(corpora=corpora, tests=tests, language_sets=[["sw"], ["sw", "lo"]]).language_sets
    assert sets == [("sw",), ("sw", "lo")]


SW = {"folder": "retrieval"}


@pytest.mark.promise(
    "Safety",
    "Invalid settings of a study raise an error that names the file and the place, and never open a file.",
)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": {}}, "unknown key 'metods'; did you mean 'methods'"),
        ({"methods": {"OT": {"kind": "trained", "epsilonn": 1}}}, "methods.OT: unknown key 'epsilonn'; .*'epsilon'"),
        ({"methods": {"OT": {"kind": "trainde"}}}, "methods.OT: unknown kind 'trainde'; did you mean 'trained'"),
        ({"methods": {"OT": {"method": "ott"}}}, "methods.OT with training: method must be one of 'ot', .*got 'ott'"),
        ({"methods": {"x": {"kind": "translation"}}}, "'model' is missing"),
        (
            {"methods": {"x": {"kind": "bm25", "translated": "yes"}}},
            "translated: Input should be 'human' or 'lexicon', got 'yes'",
        ),
        ({"training": {"seed": 3}}, "training: 'seed' is set by the study itself"),
        ({"training": {"epsilon": 0.1, "side": "left"}}, "side must be one of .*got 'left'"),
        ({"training": {"metric_for_best_model": 5}}, "methods.OT with training: .*no attribute"),
        ({"training": {"ddp_timeout": 10**30}}, "methods.OT with training: .*too large"),
        ({"training": {"accelerator_config": True}}, "training.accelerator_config: .*valid dictionary, got True"),
        (
            {"methods": {"OT": {"method": "ot", "deepspeed": "x.json"}}},
            "methods.OT.deepspeed: .*valid dictionary, got 'x.json'",
        ),
        ({"corpora": ["x" * 999] * 99}, "corpora: .*valid dictionary, got .'xxx"),
        ({"tests": {}}, "tests: Dictionary should have at least 1 item"),
        ({"tests": {"q": {"sw": {"folder": "retrieval", "poll": 3}}}}, "tests.q.sw: unknown key 'poll'; .*'pool'"),
        ({"tests": {"q": {"sw": {"split": "dev"}}}}, "has one of the keys folder, bitext, benchmark"),
        ({"tests": {"q": {"sw": {**SW, "split": "dev"}}}}, "1 data files are missing: .*dev.tsv"),
        ({"tests": {"q": {"yo": SW}}}, "no test set has the language 'sw'"),
        ({"languages": ["sw", "yo"], "tests": {"q": {"sw": SW, "yo": SW}}}, "no corpus has sentence pairs for yo"),
        ({"languages": [False]}, "write it in quotes"),
        ({"languages": ["sw"], "language_sets": [["sw"]]}, "languages and language_sets exclude each other"),
        ({"sizes": [0]}, "sizes.0: Input should be greater than 0, got 0"),
        ({"seeds": [1.5]}, "seeds.0: Input should be a valid integer.*, got 1.5"),
        ({"perturbations": {"typoes": [0.1]}}, "perturbations: unknown kind 'typoes'; did you mean 'typos'"),
        ({"measures": ["MAPP"]}, "unknown measure 'MAPP'"),
        ({"groups": {"low": ["swa"]}}, "groups.low: unknown language 'swa'; did you mean 'sw'"),
    ],
)
def test_invalid_settings_raise_an_error_with_their_place(load, changes, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        load(**changes)
    assert str(error.value).startswith(str(tmp_path / "study.yaml")) and "\n" not in str(error.value)


def test_times_are_read_as_text(content, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content) + "\ntitle: 12:30:5\n", encoding="utf-8")
    assert load_study(tmp_path / "study.yaml").title == "12:30:5"


def test_invalid_yaml_raises_an_error(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.yaml is not YAML in UTF-8: .*line"):
        load_study(tmp_path / "broken.yaml")
    with pytest.raises(DataError, match="cannot read the study"):
        load_study(tmp_path / "nowhere.yaml")
    (tmp_path / "twice.yaml").write_text("seeds: [1, 2]\nname: x\nseeds: [7]", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: the key 'seeds' is given twice; leave one out"):
        load_study(tmp_path / "twice.yaml")
    (tmp_path / "code.yaml").write_text("name: !!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(DataError, match="is not YAML"):
        load_study(tmp_path / "code.yaml")
