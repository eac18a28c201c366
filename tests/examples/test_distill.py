from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from example_scripts import run_distill
from tiny import DEMO, REPOSITORY, tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever
from hf_optical.languages import extend_processor
from hf_optical.retrieval.opening import DEFAULT_BASE
from hf_optical.training.data import DataArguments


MEASURES = ("map", "mrr@10", "ndcg@10", "recall@100")


def launch_distill(*arguments: object) -> subprocess.CompletedProcess:
    """Run `accelerate launch examples/distill.py`."""
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "examples/distill.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def small(tiny, tmp_path) -> list:
    """Arguments of a run of a few steps: tiny models, the embedded data gzipped, the corpus in another folder."""
    files = {}
    for name in ("train", "validation"):
        files[name] = tmp_path / f"{name}.jsonl.gz"
        files[name].write_bytes(gzip.compress((DEMO / f"{name}.jsonl").read_bytes()))
    folder = tmp_path / "questions"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_bytes((DEMO / "retrieval" / "queries.jsonl").read_bytes())
    (folder / "qrels" / "dev.tsv").write_bytes((DEMO / "retrieval" / "qrels" / "test.tsv").read_bytes())
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress((DEMO / "retrieval" / "corpus.jsonl").read_bytes()))
    return [
        *("--teacher_model", tiny, "--student_model", tiny, "--language", "sw", "--choose_words", "false"),
        *("--train_file", files["train"], "--validation_file", files["validation"]),
        *("--eval_dir", folder, "--eval_corpus", corpus, "--eval_split", "dev"),
        *("--output_dir", tmp_path / "out", "--max_steps", "4", "--save_steps", "2", "--save_strategy", "steps"),
        *("--eval_strategy", "no"),
    ]


def test_run_writes_results_card_and_pack(small, tiny, tmp_path):
    result = run_distill(*small)
    assert result.returncode == 0, result.stderr[-3000:]
    out = tmp_path / "out"
    results = json.loads((out / "eval_results.json").read_text())
    for measure in MEASURES:
        for prefix in ("zero_shot_", "eval_", "ceiling_"):
            assert 0 <= results[prefix + measure] <= 1
    gap = (results["eval_map"] - results["zero_shot_map"]) / (results["ceiling_map"] - results["zero_shot_map"])
    assert results["gap_closed"] == pytest.approx(gap)
    everything = json.loads((out / "all_results.json").read_text())
    assert results.items() <= everything.items()
    assert everything["pairs_kept"] == 720 and everything["trainable_parameters"] > 0
    assert "gap closed" in result.stdout and f"is in {out}" in result.stdout
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"{results['eval_map']:.3f}" in card and str(tmp_path) not in card
    assert not list(out.rglob("training_args.bin"))

    pack = LanguagePack.from_pretrained(out)
    assert pack.language == "sw" and pack.details["pairs"] == 720 and pack.details["scripts"] == ["Latin"]
    # The documents join the pairs, with words switched.
    assert 200 < pack.details["sentences"] < 1000 and pack.details["english"] == "the documents of questions/dev"
    own = pack.details["results"]["sw"]
    assert (own["queries"], own["gap_closed"]) == (96, results["gap_closed"])
    for measure in MEASURES:
        names = {"zero_shot": f"zero_shot_{measure}", "trained": f"eval_{measure}", "ceiling": f"ceiling_{measure}"}
        found = dict(own["measures"][measure])
        low, high = found.pop("interval")
        assert found == {name: results[key] for name, key in names.items()} and low <= found["trained"] <= high
    # A pack that is pushed later has the same card, without the figure.
    pack.save_pretrained(tmp_path / "again")
    pack.write_card(tmp_path / "again")
    figure = "![Losses and retrieval measures over the steps of training](training.png)\n\n"
    assert figure in card and (out / "training.png").is_file()
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == card.replace(figure, "")
    retriever = OpticalRetriever.from_pretrained(out)
    model = OpticalModel.from_pretrained(tiny)
    pack.attach(model)
    (vectors,) = retriever.encode_queries(["Habari za asubuhi?"])
    processor = extend_processor(OpticalProcessor.from_pretrained(tiny), pack.vocabulary.tokens)
    assert torch.equal(vectors, model(**processor.queries(["Habari za asubuhi?"])).embeddings[0])


@pytest.fixture
def two_languages(small, tmp_path) -> list:
    """Arguments of a run for Swahili and, under the code `lo`, reversed Swahili, with one training file for both."""
    pairs = {name: [json.loads(line)["translation"] for line in (DEMO / f"{name}.jsonl").read_text().splitlines()]
             for name in ("train", "validation")}  # fmt: skip
    train = tmp_path / "all.jsonl"
    rows = [{**pair, "lo": pair["sw"][::-1] if i % 3 == 0 else None} for i, pair in enumerate(pairs["train"][:300])]
    train.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    backwards = tmp_path / "lo.jsonl"
    rows = [{"en": pair["en"], "lo": pair["sw"][::-1]} for pair in pairs["validation"][:20]]
    backwards.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    folder = tmp_path / "lo"
    (folder / "qrels").mkdir(parents=True)
    queries = [json.loads(line) for line in (DEMO / "retrieval" / "queries.jsonl").read_text().splitlines()]
    (folder / "queries.jsonl").write_text("".join(json.dumps({**q, "text": q["text"][::-1]}) + "\n" for q in queries))
    (folder / "qrels" / "dev.tsv").write_bytes((DEMO / "retrieval" / "qrels" / "test.tsv").read_bytes())
    arguments = list(small)
    for option, values in {
        "--language": ["sw", "lo"],
        "--train_file": [train],
        "--validation_file": [arguments[arguments.index("--validation_file") + 1], backwards],
        "--eval_dir": [arguments[arguments.index("--eval_dir") + 1], folder],
    }.items():
        place = arguments.index(option) + 1
        arguments[place : place + 1] = values
    return arguments


@pytest.mark.slow
def test_two_languages_in_one_run(two_languages, tmp_path):
    result = run_distill(*two_languages, "--sampling_temperature", 5, "--metric_for_best_model", "map")
    assert result.returncode == 0, result.stderr[-3000:]
    out = tmp_path / "out"
    results = json.loads((out / "eval_results.json").read_text())
    for name in [prefix + measure for prefix in ("zero_shot_{}", "eval_{}", "ceiling_{}") for measure in MEASURES]:
        each = [results[name.format(f"{language}_")] for language in ("sw", "lo")]
        assert results[name.format("")] == pytest.approx(sum(each) / 2)
    for language in ("sw", "lo"):
        before, after, ceiling = (results[f"{prefix}_{language}_map"] for prefix in ("zero_shot", "eval", "ceiling"))
        assert results[f"{language}_gap_closed"] == pytest.approx((after - before) / (ceiling - before))
        pack = LanguagePack.from_pretrained(out / language)
        assert pack.details["pairs"] == {"sw": 300, "lo": 100}[language] and pack.details["bitext"] == "all.jsonl"
        assert f"{after:.3f}" in (out / language / "README.md").read_text(encoding="utf-8")
        assert f"\n{language} " in result.stdout
    assert "language packs are in" in result.stdout
    # The teacher encodes the passages once for both languages.
    assert len(re.findall(r"Encoding document texts: +0%", result.stderr)) == 1, result.stderr
    retriever = OpticalRetriever.from_pretrained(out / "lo")
    retriever.add_language("sw", out / "sw")
    assert len(retriever.encode_queries(["?inagn", "Basi"], language=["lo", "sw"])) == 2


@pytest.mark.slow
def test_two_languages_in_one_pack(two_languages, tmp_path):
    shared = [*two_languages, "--shared_pack", "eastern"]
    assert run_distill(*shared).returncode == 0
    pack = LanguagePack.from_pretrained(tmp_path / "out")
    assert pack.language == "eastern" and pack.details["pairs"] == 400
    assert pack.details["counts"]["pairs_kept"] == 400 and pack.details["counts"]["pairs_empty"] == 200
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "for Swahili (sw), Lao (lo)" in card and card.count("| before training |") == 2
    assert pack.details["results"].keys() == {"sw", "lo"}


@pytest.mark.slow
def test_resumed_run_gives_the_same_weights(small, tmp_path):
    assert run_distill(*small, "--seed", 3).returncode == 0
    whole = LanguagePack.from_pretrained(tmp_path / "out")
    again = run_distill(*small, "--seed", 3)
    assert again.returncode != 0 and "contains another run" in again.stderr and "Traceback" not in again.stderr
    for path in [*(tmp_path / "out").glob("checkpoint-4/*"), *(tmp_path / "out").glob("*.*")]:
        path.unlink()
    resumed = run_distill(*small, "--seed", 3, "--resume_from_checkpoint", "last")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    for name, weight in LanguagePack.from_pretrained(tmp_path / "out").weights.items():
        assert torch.equal(whole.weights[name], weight), name


def test_two_named_columns_and_no_validation_file(tiny, tmp_path):
    pairs = [json.loads(line)["translation"] for line in (DEMO / "train.jsonl").read_text().splitlines()][:100]
    table = tmp_path / "pairs.tsv"
    table.write_text("english\tswahili\n" + "".join(f"{pair['en']}\t{pair['sw']}\n" for pair in pairs))
    result = run_distill(
        *("--teacher_model", tiny, "--student_model", tiny, "--language", "sw", "--train_file", table),
        *("--student_column", "swahili", "--teacher_column", "english", "--max_steps", 2, "--train_all_weights", True),
        *("--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_loss" in json.loads((tmp_path / "out" / "eval_results.json").read_text())
    OpticalRetriever.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--train_file": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ({"--eval_split": "train"}, "train"),
        ({"--teacher_model": "no/such-model"}, "'no/such-model'"),
        ({"--method": "hybrid", "--triples_file": "nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"--license": "CC BY 4.0"}, "--license must be an identifier"),
    ],
)
def test_invalid_arguments_end_with_one_line(small, change, message):
    arguments = list(small)
    for option, value in change.items():
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    result = run_distill(*arguments)
    assert result.returncode != 0 and message in result.stderr, result.stderr[-2000:]
    assert "Traceback" not in result.stderr, result.stderr[-2000:]


@pytest.mark.slow
def test_student_of_another_vector_size_is_projected(small, tmp_path):
    arguments = list(small)
    arguments[arguments.index("--teacher_model") + 1] = tiny_checkpoint(tmp_path / "teacher", projection_dim=16)
    result = run_distill(*arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "The student gets a projection into the teacher's space, fitted on 648 sentences" in result.stderr
    pack = LanguagePack.from_pretrained(tmp_path / "out")
    assert pack.projection["weight"].shape == (16, 32)
    assert "**Projection:**" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_model_that_is_not_named_is_the_other_one():
    for given, expected in (
        ({}, (DEFAULT_BASE, DEFAULT_BASE)),
        ({"student_model": "a"}, ("a", "a")),
        ({"teacher_model": "b"}, ("b", "b")),
        ({"student_model": "a", "teacher_model": "b"}, ("a", "b")),
    ):
        arguments = DataArguments(**given)
        assert (arguments.student_model, arguments.teacher_model) == expected


def test_embedded_data_has_no_duplicates_or_leaks():
    pairs = {name: [json.loads(line)["translation"] for line in (DEMO / f"{name}.jsonl").read_text().splitlines()]
             for name in ("train", "validation")}  # fmt: skip
    folder = DEMO / "retrieval"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    assert len(pairs["train"]) + len(pairs["validation"]) >= 600
    assert len(corpus) >= 200 and len(queries) >= 80
    sentences = [text for rows in pairs.values() for pair in rows for text in pair.values()]
    assert len(set(sentences)) == len(sentences)
    asked = {text for query in queries for text in (query["text"], query["metadata"]["translation"])}
    assert not asked.intersection(sentences)
    passages = " ".join(document["text"] for document in corpus)
    assert not [sentence for sentence in sentences if sentence in passages]
    assert "achine-written" in Path(DEMO / "README.md").read_text()


@pytest.mark.slow
def test_embedded_default_learns(tmp_path):
    result = launch_distill("--output_dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["eval_map"] > results["zero_shot_map"] + 0.1
    assert " after + " in result.stdout
