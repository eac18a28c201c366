import csv
import json
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from study_records import MEASURE, record, references

from hf_optical.errors import DataError
from hf_optical.evaluation import bootstrap_interval, gap_closed
from hf_optical.studies import Method, StudyConfig
from hf_optical.studies.report import write_report
from hf_optical.studies.settings import BenchmarkTest


LANGUAGES = ("ha", "ig")


def study(methods, **more):
    """A study of these methods, with what a report needs."""
    entries = {
        "name": "demo",
        "title": "A demonstration",
        "teacher": "org/teacher",
        "student": "/home/somebody/student",
        "corpora": {},
        "language_sets": [LANGUAGES],
        "tests": {"questions": {"ha": BenchmarkTest(benchmark="afriqa")}},
        "methods": {name: Method(name, name, {}) for name in methods},
        "training": {},
        "sizes": [None],
        "seeds": [1],
        "perturbations": {},
        "measures": [MEASURE],
        "groups": {},
    }
    return StudyConfig(**entries | more)


def levels(**methods):
    return [record(method, level, language) for method, level in methods.items() for language in LANGUAGES]


def write(folder, records, unfinished=(), config=None, **more):
    config = config or study(dict.fromkeys(each.method for each in records), **more)
    path = write_report(folder, config, records, unfinished=unfinished)
    return path.read_text("utf-8"), json.loads((folder / "results.json").read_text("utf-8"))


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def rows_of(part):
    """First cell -> the other cells, of the tables of a part."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line[:1] == "|"]
    return {first: others for first, *others in cells}


def test_introduction_names_models_and_seeds_but_no_local_folders(tmp_path):
    records = [replace(each, seed=42) for each in levels(ot=0.4)]
    training = {"dictionary": {"ha": "/home/somebody/ha.txt"}, "num_train_epochs": 3}
    text, _ = write(tmp_path / "two", records, training=training)
    assert rows_of(text)["Teacher, student"] == ["org/teacher, student"]
    assert "not what another training run" in text and "languages trained together" not in text
    assert "/home" not in text and str(tmp_path) not in text
    assert "dictionary ha ha.txt, num_train_epochs 3" in text
    text, _ = write(tmp_path / "one", records, student="org/teacher")
    assert rows_of(text)["Teacher and student"] == ["org/teacher"]


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """OT far above the others, which are as good as each other; in Igbo all are alike."""
    folder = tmp_path_factory.mktemp("clear")
    records = [
        record("ot", 0.6, "ha"),
        record("greedy", 0.3, "ha"),
        record("sentence", 0.3, "ha"),
        *(record(method, 0.4, "ig") for method in ("ot", "greedy", "sentence")),
        *references(LANGUAGES),
    ]
    return folder, records, *write(folder, records, groups={"high": ["ha"], "low": ["ig"]})


def test_scores_are_the_means_and_their_intervals(clear):
    _, records, text, results = clear
    table = rows_of(section(text, "Scores"))

    for method in ("ot", "greedy", "sentence"):
        own = {each.language: each.values[MEASURE] for each in records if each.method == method}
        means = [np.mean(list(values.values())) for values in own.values()]
        for cell, mean, values in zip(table[method], [np.mean(means), *means], [own, *own.values()], strict=True):
            low, high = bootstrap_interval(values)
            assert cell.replace("*", "") == f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    stored = {(row["method"], row["language"]): row["value"] for row in results["scores"]}
    assert stored["ot", "ha"] == pytest.approx(records[0].mean(MEASURE))


def test_best_method_is_bold_only_if_it_beats_the_runner_up(clear):
    table = rows_of(section(clear[2], "Scores"))

    assert [cell.startswith("**") for cell in table["ot"]] == [True, True, False]
    assert not any("**" in cell for method in ("greedy", "sentence") for cell in table[method])


def test_references_are_marked_and_do_not_compete(clear):
    _, _, text, results = clear
    table = rows_of(section(text, "Scores"))

    assert "*ceiling* (teacher on human translations)" in table and "*zero_shot* (untrained student)" in table
    assert not {"ceiling", "zero_shot"} & {
        row[end] for row in results["comparisons"] for end in ("system", "baseline")
    }


def test_findings_follow_the_tests(clear):
    said = section(clear[2], "What this says")

    titles = re.findall("^## (.*)$", clear[2], re.M)
    assert titles == ["What this says", "Scores", "Significance", "Language gap"]
    assert re.search(r"ot is best \(MAP 0\.\d{3}\): better than (greedy and sentence|sentence and greedy)", said)
    assert re.search(r"ot: better than (greedy|sentence) \(\+0\.\d{3}, p [<=] 0\.\d{3}\) and", said)


def test_significance_has_both_tests_and_a_verdict(clear):
    _, _, text, results = clear
    part = section(text, "Significance")

    assert part.count("**better**") == sum(row["significant"] for row in results["comparisons"]) == 3
    assert re.search(r"\| +no difference shown \|", part)
    # Three pairs in the mean, one in each language.
    assert len(results["comparisons"]) == 5 and "all 5 comparisons" in text


def test_noise_and_human_translations_are_not_reported_as_a_difference(tmp_path):
    methods = {"bm25": Method("bm25", "bm25", {"translated": "human"})}
    config = study(["bm25"]).model_copy(update={"methods": methods})

    text, results = write(tmp_path, levels(ot=0.4, greedy=0.4, bm25=0.9), config=config)

    assert "No method is shown to be best" in text and "no difference shown from" in section(text, "What this says")
    assert "**better**" not in text and not any(row["significant"] for row in results["comparisons"])
    assert not any("**" in cell for cells in rows_of(section(text, "Scores")).values() for cell in cells)
    assert "*bm25* (on human translations)" in text
    assert {row["system"] for row in results["comparisons"]} <= {"ot", "greedy"}


def test_report_says_where_ot_loses(tmp_path):
    said = section(write(tmp_path, levels(ot=0.3, greedy=0.6))[0], "What this says")

    assert "greedy is best" in said and re.search(r"ot: worse than greedy \(-0\.\d{3}, p ", said)
    assert "does not have the highest score in ha (greedy) and ig (greedy)" in said


def test_language_gap(clear):
    _, records, text, results = clear
    mean = {(each.method, each.language): each.mean(MEASURE) for each in records}
    table = rows_of(section(text, "Language gap"))

    closed = [gap_closed(*(mean[m, code] for m in ("zero_shot", "ot", "ceiling"))) for code in LANGUAGES]
    assert table["ot"][:3] == [f"{100 * share:.0f} %" for share in (*closed, np.mean(closed))]
    assert table["ot"][4:] == ["ig", f"{mean['ot', 'ha'] - mean['ot', 'ig']:+.3f}"]
    assert table["ceiling"][:3] == ["–"] * 3 and table["Method"][-1] == "high − low"
    assert results["language_gap"][0]["gap_closed"]["ha"] == pytest.approx(closed[0])
    assert "ceilings differ" not in text


def test_tests_of_different_languages_share_a_gap_table(tmp_path):
    records = [
        each
        for language, test in (("ha", "questions"), ("de", "captions"))
        for each in (record("ot", 0.5, language, test), *references([language], test))
    ]

    part = section(write(tmp_path, records)[0], "Language gap")

    assert rows_of(part)["Method"][:3] == ["ha", "de", "mean"]
    assert "whose ceilings differ: range, std and worst compare\ntest sets as well as languages." in part


def test_reports_are_reproducible(clear, tmp_path):
    folder, records, text, _ = clear
    write(tmp_path, records, groups={"high": ["ha"], "low": ["ig"]})

    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert [str(name) for name in names] == [
        "figures/languages-questions-news.pdf",
        "figures/languages-questions-news.png",
        "report.md",
        "results.csv",
        "results.json",
        "tables/questions-news.tex",
        "versions.txt",
    ]
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert "](figures/languages-questions-news.png)" in text
    assert matplotlib.image.imread(folder / names[1]).shape[1] == 1800


def test_places_with_alike_names_have_their_own_files(tmp_path):
    places = [("news", "A-b"), ("news-a", "b"), ("C++", None), ("C#", None)]
    records = [record("ot", 0.5, "ha", test, corpus=corpus) for test, corpus in places]

    text, _ = write(tmp_path, records)

    names = ["news-a-b", "news-a-b-2", "c-", "c--2"]
    assert re.findall(r"\(figures/languages-(.*)\.png\)", text) == names
    tables = [(tmp_path / "tables" / f"{name}.tex").read_text("utf-8") for name in names]
    assert [re.search(r"MAP on (.*?)\. Bold", table)[1] for table in tables] == [
        "news, trained on A-b",
        "news-a, trained on b",
        "C++",
        r"C\#",
    ]
    images = {(tmp_path / "figures" / f"languages-{name}.png").read_bytes() for name in names}
    assert len(images) == 4


def test_files_of_an_older_report_are_removed(tmp_path):
    records = [record("ot", 0.5, "ha", test) for test in ("questions", "captions")]
    write(tmp_path, records)
    older = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    own = ["figures/mine.png", "figures/domains-mine.png", "tables/mine.tex", "notes.txt"]
    for name in own:
        (tmp_path / name).write_text("mine", "utf-8")

    write(tmp_path, records[:1], notes="![mine: a figure](figures/mine.png)")

    assert {"figures/domains.png", "figures/domains.pdf", "tables/captions-news.tex"} < older
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == {
        "figures/languages-questions-news.pdf",
        "figures/languages-questions-news.png",
        "tables/questions-news.tex",
        *own[:3],
    }
    write(tmp_path, records)
    assert all((tmp_path / name).is_file() for name in [*own, *older])


def test_tables_for_papers_have_the_scores_of_the_report(clear):
    folder, records, text, _ = clear
    table = (folder / "tables" / "questions-news.tex").read_text("utf-8")

    lines = [line.removesuffix(r" \\").split(" & ") for line in table.splitlines() if " & " in line]
    rows = {first: others for first, *others in lines}
    shown = rows_of(section(text, "Scores"))
    assert rows["Method"] == ["mean", "ha", "ig"] and r"\emph{zero\_shot}" in rows
    for method in ("ot", "greedy", "sentence"):
        for cell, other in zip(rows[method], shown[method], strict=True):
            assert re.search(r"\d\.\d{3}", cell)[0] == re.search(r"\d\.\d{3}", other)[0]
    # The dagger marks what the report has in bold: better than the runner-up. In Igbo the best is only the highest.
    assert [r"$^{\dagger}$" in cell for cell in rows["ot"]] == [True, True, False]
    assert sum(row[2].startswith(r"\textbf") for row in rows.values()) == 1
    means = list(csv.DictReader((folder / "results.csv").read_text("utf-8").splitlines()))
    expected = [each.mean(MEASURE) for each in records]
    assert [float(line[MEASURE]) for line in means] == pytest.approx(expected, abs=1e-6)
    assert all(line["queries"] == "40" for line in means)
    assert re.search(r"^torch==\d", (folder / "versions.txt").read_text("utf-8"), re.M)


def test_report_of_a_full_study(tmp_path):
    records = [
        record(
            method,
            level + (size is None) * 0.1 - strength * 0.5,
            language,
            test,
            languages=languages,
            size=size,
            pairs=(size or 2000) * len(languages),
            seed=seed,
            seconds=60.0 + seed,
            search_seconds=2.0,
            perturbation="case" if strength else None,
            strength=strength,
        )
        for method, level in (("ot", 0.4), ("hybrid", 0.42))
        for languages in (("ha",), LANGUAGES)
        for language in languages
        for test in ("questions", "captions")
        for size in (500, None)
        for seed in (1, 2)
        for strength in (0.0, 0.2)
    ]
    records += [each for test in ("questions", "captions") for each in references(LANGUAGES, test)]

    text, results = write(tmp_path, records, seeds=[1, 2])

    assert re.findall("^## (.*)$", text, re.M) == [
        "What this says",
        "Scores",
        "Significance",
        "Language gap",
        "Data size",
        "Robustness",
        "Domain shift",
        "Number of languages trained together",
        "Time",
    ]
    assert "not what another training run" not in text
    assert "at the largest number of sentence pairs, with the most languages trained together" in text
    shown = set(re.findall(r"\((figures/.*?)\)", text))
    drawn = {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()}
    assert drawn == shown | {name.replace(".png", ".pdf") for name in shown} and len(shown) == 8
    assert "draws queries and training runs with replacement" in text and "p (runs)" in section(text, "Significance")
    assert all(row["p_runs"] is not None for row in results["comparisons"])
    whole = [
        each
        for each in records
        if (each.method, each.test, each.languages, each.size) == ("ot", "questions", LANGUAGES, None)
    ]
    seeds = [np.mean([e.mean(MEASURE) for e in whole if e.seed == seed and not e.strength]) for seed in (1, 2)]
    assert rows_of(section(text, "Scores").split("###")[1])["ot"][-1] == f"± {np.std(seeds, ddof=1):.3f} (2)"
    clean, changed = (np.mean([e.mean(MEASURE) for e in whole if bool(e.strength) == bad]) for bad in (False, True))
    (found,) = (e for e in results["robustness"] if (e["method"], e["test"]) == ("ot", "questions"))
    assert found["relative_drop"] == pytest.approx(1 - changed / clean)
    assert f"{100 * found['relative_drop']:.0f} %" in section(text, "Robustness")
    assert rows_of(section(text, "Data size").split("###")[1])["Method"] == ["500", "2,000"]
    assert rows_of(section(text, "Time"))["ot"] == ["8", "62 (61 to 62)", "2.0"]


def test_groups_of_languages_with_their_own_tests_are_compared_side_by_side(tmp_path):
    places = {"ha": ("questions", "news"), "ig": ("questions", "news"), "de": ("captions", "pairs")}
    lost = {("ot", "ha"): 0.6, ("ot", "ig"): 0.6, ("ot", "de"): 0.2}
    records = [
        record(
            method,
            0.8 * (1 - lost.get((method, language), 0.4) * (strength > 0)),
            language,
            test,
            corpus=corpus,
            noise=0.02,
            perturbation="typos" if strength else None,
            strength=strength,
        )
        for method in ("ot", "noisy")
        for language, (test, corpus) in places.items()
        for strength in (0.0, 0.2)
    ]
    text, results = write(tmp_path, records, groups={"high": ["de"], "low": ["ha", "ig"]})
    part = section(text, "Robustness of groups of languages")
    assert "### All tests" in part and part.count("| typos") == 3
    own, other, difference = results["robustness_gap"]
    assert (own["method"], other["method"], difference["method"], difference["against"]) == (
        "ot",
        "noisy",
        "ot",
        "noisy",
    )
    assert own["kept"]["high"] - own["kept"]["low"] == pytest.approx(own["result"]["gap"])
    # Half of the strongest loss, since the curve falls linearly; the noise of the means is below .02.
    assert (
        own["result"]["gap"] == pytest.approx(0.2, abs=0.03)
        and max(own["adjusted_t"], own["adjusted_bootstrap"]) < 0.01
    )
    assert abs(other["result"]["gap"]) < 0.03
    assert difference["result"]["gap"] == pytest.approx(own["result"]["gap"] - other["result"]["gap"])
    assert part.count("**") == 4  # the gap of one method, and the difference
    # A single test set is not called all tests.
    one = [each for each in records if each.corpus == "news"]
    _, results = write(tmp_path / "one", one, groups={"high": ["ig"], "low": ["ha"]})
    assert {row["where"] for row in results["robustness_gap"]} == {"questions"}
    # Languages with several tests are compared within each.
    more = [*records, *(replace(each, test="captions") for each in records if each.corpus == "news")]
    text, results = write(tmp_path / "more", more, groups={"high": ["ig"], "low": ["ha"]})
    assert {row["where"] for row in results["robustness_gap"]} == {
        "questions, trained on news",
        "captions, trained on news",
    }


def test_missing_and_failed_cells_are_listed(tmp_path):
    records = [*levels(ot=0.5), record("greedy", 0.4, "ha")]
    config = study(["ot", "greedy", "sentence"])

    text, results = write(tmp_path, records, unfinished=["failed: train hybrid on news: OSError"], config=config)

    part = section(text, "Missing")
    assert results["missing"] == [line.removeprefix("- ") for line in part.split("\n") if line]
    assert "sentence: nothing was measured" in part and "greedy lacks ig on questions" in part
    assert "failed: train hybrid on news: OSError" in part
    # Incomplete methods have no mean and are not compared.
    assert rows_of(section(text, "Scores"))["greedy"][0] == "–"
    assert [row["language"] for row in results["comparisons"]] == ["ha"]
    assert "Fewer than two methods were measured in every language" in section(text, "What this says")


def test_report_without_records_raises_an_error(tmp_path):
    with pytest.raises(DataError, match="no records; run it first"):
        write_report(tmp_path / "report", study(["ot"]), [])
    assert not (tmp_path / "report").exists()
