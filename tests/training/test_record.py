from __future__ import annotations

import pytest
from tiny import THAI

from hf_optical import OTDistillationConfig
from hf_optical.training.run_details import hardware, run_details, scripts_of
from hf_optical.transport import SOLVERS


def test_what_is_told_of_several_languages_is_put_together(make_two):
    told = {
        "sw": {"pairs": 30, "bitext": "a.jsonl", "counts": {"kept": 30, "empty": 1}},
        "lo": {"pairs": 12, "bitext": "b.jsonl", "counts": {"kept": 12}, "notes": ["free"]},
    }
    args = make_two(shared_pack="eastern").args
    details = run_details(args, "teacher", 7, ["sw", "lo"], told)
    assert (details["pairs"], details["bitext"], details["counts"]) == (
        42,
        "a.jsonl, b.jsonl",
        {"kept": 42, "empty": 1},
    )
    assert details["settings"]["sampling_temperature"] == 1.0 and details["languages"] == ["sw", "lo"]
    assert run_details(args, "teacher", 7, ["lo"], told)["notes"] == ["free"]
    assert "pairs" not in run_details(args, "teacher", 7, ["lo"], {})
    for license, both in ((None, {}), ("cc0-1.0", {"bitext_license": "cc-by-4.0, cc0-1.0"})):
        told["sw"]["bitext_license"] = "cc-by-4.0"
        told["lo"] |= {"bitext_license": license} if license else {}
        found = run_details(args, "teacher", 7, ["sw", "lo"], told)
        assert {name: found[name] for name in ("bitext_license",) if name in found} == both


def test_the_settings_told_are_those_that_the_method_uses():
    def settings(triples=0, **options):
        args = OTDistillationConfig(language=["sw", "lo"], use_cpu=True, **options)
        return run_details(args, "teacher", 7, ["lo"], {}, triples)["settings"]

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


@pytest.mark.parametrize(
    ("texts", "scripts"),
    [
        (["Habari za asubuhi?", "1 2 3"], ["Latin"]),
        (THAI, ["Thai"]),
        (["ሰላም ለዓለም", "Хелло", "Хелло мир"], ["Cyrillic", "Ethiopic"]),
        (["漢字とひらがなとカタカナ"], ["Hiragana", "Katakana", "Han"]),
        (["한국어", "ᓄᓇᕗᑦ", "नमस्ते दुनिया"], ["Devanagari", "Canadian", "Hangul"]),
        (["ˈʼ 42 …"], []),
        (["а" * 500 + " b"], ["Cyrillic"]),
    ],
)
def test_the_scripts_of_texts(texts, scripts):
    assert sorted(scripts_of(texts)) == sorted(scripts)


def test_what_a_run_computes_on_is_told():
    assert hardware(OTDistillationConfig(language="sw", use_cpu=True)).endswith((" thread", " threads"))
