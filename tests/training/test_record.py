from __future__ import annotations

import pytest
from tiny import THAI

from hf_optical import OTDistillationConfig
from hf_optical.methods import make_methods
from hf_optical.training.record import RunRecord, hardware, scripts_of
from hf_optical.transport import SOLVERS


@pytest.fixture
def make_record(tiny_model):
    """Make the record of a run in Swahili and Lao."""

    def make(triples=0, **options) -> RunRecord:
        args = OTDistillationConfig(**{"language": ["sw", "lo"], "use_cpu": True, **options})
        return RunRecord(args, make_methods(args), tiny_model, {}, triples)

    return make


def test_details_of_languages_that_share_a_pack_are_merged(make_record):
    record = make_record(shared_pack="eastern")
    record.details = {
        "sw": {"pairs": 30, "bitext": "a.jsonl", "counts": {"kept": 30, "empty": 1}},
        "lo": {"pairs": 12, "bitext": "b.jsonl", "counts": {"kept": 12}, "notes": ["free"]},
    }
    details = record.card_details(["sw", "lo"], step=7)
    assert (details["pairs"], details["bitext"], details["counts"]) == (
        42,
        "a.jsonl, b.jsonl",
        {"kept": 42, "empty": 1},
    )
    assert details["settings"]["sampling_temperature"] == 1.0 and details["languages"] == ["sw", "lo"]
    assert details["steps"] == 7
    assert record.card_details(["lo"], 7)["notes"] == ["free"]
    names = ("bitext_license", "monolingual_license")
    for license, both in ((None, {}), ("cc0-1.0", dict.fromkeys(names, "cc-by-4.0, cc0-1.0"))):
        record.details["sw"] |= dict.fromkeys(names, "cc-by-4.0")
        record.details["lo"] |= dict.fromkeys(names, license) if license else {}
        found = record.card_details(["sw", "lo"], 7)
        assert {name: found[name] for name in names if name in found} == both
    assert "pairs" not in make_record().card_details(["lo"], 7)


def test_card_has_the_settings_that_the_method_uses(make_record):
    def settings(**options):
        return make_record(**options).card_details(["lo"], 7)["settings"]

    ranking = {"switch_side", "ranking_target", "ranking_weight"}
    assert {"marginals", "side", "epsilon"} <= settings().keys() and not ranking & settings().keys()
    alone = settings(method="code_switch")
    assert ranking <= alone.keys()
    assert not {"marginals", "side", "epsilon", "alternate", "dictionary", "triples"} & alone.keys()
    assert settings(method="code_switch", anchor_weight=0.5, side="both")["side"] == "both"
    files = ["private/en-sw.txt", "/home/me/en-lo.txt"]
    hybrid = settings(method="hybrid", alternate=True, dictionary=files, triples=12)
    assert (hybrid["alternate"], hybrid["dictionary"], hybrid["triples"]) == (True, "en-lo.txt", 12)
    assert {"marginals", "epsilon", *ranking} <= hybrid.keys()
    solvers = {solver: settings(solver=solver).keys() for solver in SOLVERS}
    assert "epsilon" in solvers["sinkhorn"] and not {"epsilon", "marginal_penalty"} & solvers["exact"]
    assert "marginal_penalty" in solvers["unbalanced"] and "transported_mass" in solvers["partial"]
    assert not any({"max_iterations", "tolerance"} & names for names in solvers.values())


def test_scripts_of_texts():
    for texts, scripts in (
        (["Habari za asubuhi?", "1 2 3"], ["Latin"]),
        (THAI, ["Thai"]),
        (["ሰላም ለዓለም", "Хелло", "Хелло мир"], ["Cyrillic", "Ethiopic"]),
        (["漢字とひらがなとカタカナ"], ["Hiragana", "Katakana", "Han"]),
        (["한국어", "ᓄᓇᕗᑦ", "नमस्ते दुनिया"], ["Devanagari", "Canadian", "Hangul"]),
        (["ˈʼ 42 …"], []),
        (["а" * 500 + " b"], ["Cyrillic"]),
    ):
        assert sorted(scripts_of(texts)) == sorted(scripts)


def test_hardware_names_the_processor():
    assert hardware(OTDistillationConfig(language="sw", use_cpu=True)).endswith((" thread", " threads"))
