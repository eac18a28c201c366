"""`hf-optical` as users run it."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace

import pytest
from example_scripts import run_hf_optical
from packs import make_pack
from small_examples import small_examples
from tiny import DEMO, tiny_checkpoint

from hf_optical import (
    LanguagePack,
    OpticalModel,
    OpticalProcessor,
    OpticalRetriever,
    RetrievalEvaluator,
    load_beir,
)
from hf_optical.cli import main
from hf_optical.cli.main import COMMANDS
from hf_optical.index import RetrievalIndex
from hf_optical.methods import method_names
from hf_optical.retrieval.tuning import STRENGTHS


BENCHMARK = "examples/data/retrieval"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a pack of it, documents in a CSV file, aligned text files and a benchmark."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_checkpoint(folder / "base")
    small_examples(folder / "examples")
    make_pack(folder / "base", "sw", seed=0, words=["mzuqo"]).save_pretrained(folder / "pack")
    rows = ["id,title,text,source", "a,Rain,It fell all night.,news", "b,Bread,It is baked from flour.,book"]
    (folder / "documents.csv").write_text("\n".join(rows) + "\n")
    pairs = [json.loads(line)["translation"] for line in (DEMO / "train.jsonl").read_text().splitlines()][:40]
    for code in ("en", "sw"):
        (folder / f"train.{code}").write_text("".join(f"{pair[code]}\n" for pair in pairs))
    return folder


def failure(capsys, *argv: object) -> str:
    """The message of a command that fails: one line, exit code 1."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, argv)])
    message = capsys.readouterr().err if isinstance(stop.value.code, int) else stop.value.code
    assert stop.value.code == 1 or isinstance(stop.value.code, str)
    assert message.startswith("error: ") and len(message.strip().splitlines()) == 1
    return message.strip()


def test_help_fits_a_screen(capsys):
    for command in COMMANDS:
        try:
            main([command, "--help"])
        except SystemExit as stop:
            assert not stop.code
        text = capsys.readouterr().out
        assert len(text.splitlines()) <= 42 and max(map(len, text.splitlines())) <= 119, command


def test_help_lists_the_commands_without_heavy_imports():
    code = (
        "import sys, hf_optical.cli\n"
        "try:\n    hf_optical.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def test_options_in_the_help_of_train_exist(capsys):
    main(["train", "--help_all"])
    every = capsys.readouterr().out
    main(["train", "--help"])
    shown = re.findall(r"^  (--\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(shown) > 12 and not [option for option in shown if f"{option} " not in every]


def test_help_of_train_names_every_method(capsys):
    main(["train", "--help"])
    (text,) = re.findall(r"--method NAME +(.*)", capsys.readouterr().out)
    assert [name for name in re.findall(r"\w+", text) if name not in ("default", "or")] == method_names()


def test_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf_optical", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("hf_optical", run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serch"], "invalid choice: 'serch'"),
        (["search", "rain", "--index", "nowhere"], "nowhere must be the folder of an index"),
        (["search", "rain", "--corpus", "nowhere.csv", "--pack", "{}/base"], "nowhere.csv cannot be read"),
        (["search", "rain", "--corpus", "{}/documents.csv", "--pack", "{}/base", "--language", "ha"], "'ha'"),
        (
            ["search", "rain", "--corpus", "{}/documents.csv", "--pack", "{}/base", "--text_column", "body"],
            "no column 'body'.*`?--text_column",
        ),
        (["index", "--output", "{}/index"], "--corpus, --delete, --compact or --recall"),
        (["index", "--output", "{}/index", "--corpus", "x.csv", "--delete", "a"], "--delete .*needs --add"),
        (["index", "--output", "{}/index", "--corpus", "x.csv", "--add", "--dtype", "int8"], "--dtype is for a new"),
        (
            ["index", "--output", "{}/index", "--corpus", "x.csv", "--add", "--engine", "lance"],
            "--engine is for a new",
        ),
        (["evaluate", "--pack", "{}/pack", "--benchmark", "{}/base"], "BEIR"),
        (["evaluate", "--pack", "{}/pack", "--benchmark", "{}/base", "--documents", "9"], "--documents needs a name"),
        (["evaluate", "--pack", "{}/pack", "--benchmark", "afriqa", "--corpus", "x"], "--corpus needs a folder"),
        (
            ["evaluate", "--pack", "{}/pack", "--benchmark", "afriqa", "--index", "x", "--documents", "9"],
            "--documents keeps a part .*--index searches all; leave one of them out",
        ),
        (["push", "nowhere", "org/name"], "nowhere must be the folder of a pack"),
        (["demo", "--pack", "nowhere", "--documents", "nowhere"], "nowhere"),
        (["serve", "--index", "nowhere", "--max_questions", "0"], "--max_questions must be at least 1, got 0"),
        (["serve", "--index", "nowhere", "--max_questions", "2000"], "nowhere must be the folder of an index"),
        (["compare", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--language", "sw", "--train_file", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["train", "--language", "sw"], "--train_file, --dataset_name or --dictionary"),
        (
            ["train", "--language", "sw", "--train_file", "x.csv", "--marginal_penalty", "-1"],
            "--marginal_penalty must",
        ),
        (["train", "--language", "sw", "--train_file", "x.csv", "--learning_rate", "fast"], "learning_rate"),
    ],
)
def test_wrong_input_ends_in_one_line(folder, capsys, argv, message):
    assert re.search(message, failure(capsys, *(each.replace("{}", str(folder)) for each in argv)))


def test_index_search_and_delete(folder, tmp_path, capsys):
    index = tmp_path / "index"
    main(["index", "--corpus", f"{folder}/documents.csv", "--output", str(index), "--model", f"{folder}/base"])
    assert "has 2 documents" in capsys.readouterr().out
    assert "already holds an index" in failure(
        capsys, "index", "--corpus", folder / "documents.csv", "--output", index, "--model", folder / "base"
    )
    (tmp_path / "more.jsonl").write_text(json.dumps({"_id": "c", "text": "Fish swim."}) + "\n")
    main(["index", "--corpus", f"{tmp_path}/more.jsonl", "--output", str(index), "--add"])
    main(["index", "--output", str(index), "--delete", "b"])
    assert [len(part.ids) for part in RetrievalIndex.open(index).parts] == [2, 1]
    capsys.readouterr()
    main(["index", "--output", str(index), "--compact"])
    assert re.search(r"Compacted the index, which freed 0.0 MB\n.* has 2 documents", capsys.readouterr().out)
    (part,) = RetrievalIndex.open(index).parts
    assert part.ids == ["a", "c"]

    questions = ["mzuqo rain", "fish"]
    main(["search", *questions, "--index", str(index), "--pack", f"{folder}/pack", "--top_k", "1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == questions and {row["language"] for row in rows} == {"sw"}
    assert all(len(row["hits"]) == 1 for row in rows)
    # The index opens its own base.
    main(["search", "fish swim", "--index", str(index)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fish swim" and " c " in lines[1] and "Fish swim." in lines[1]
    # Or the one that is named, which knows the words of the documents.
    main(["search", "fish swim", "--index", str(index), "--base", f"{folder}/base", "--weights", "idf"])
    assert "Fish swim." in capsys.readouterr().out
    file = index / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model": ""}))
    assert "that was not saved when it" in failure(capsys, "search", "fish", "--index", index)
    tiny_checkpoint(tmp_path / "other", seed=7)
    assert "on the base of the index" in failure(
        capsys, "search", "fish", "--index", index, "--pack", tmp_path / "other"
    )


def test_other_engines_are_built_and_searched(folder, tmp_path, capsys):
    index = tmp_path / "index"
    base, output = ("--model", f"{folder}/base"), ("--output", str(index))
    main(["index", "--corpus", f"{folder}/documents.csv", *base, *output, "--engine", "lance"])
    assert "A search finds 100.0% of the ten best documents" in capsys.readouterr().out
    main(["index", "--delete", "a", *output, "--recall", "0.9"])
    assert "has 1 documents" in capsys.readouterr().out
    for where, found in (("source = 'book'", ["b"]), ("source = 'news'", [])):
        main(["search", "rain", "--index", str(index), "--pack", f"{folder}/pack", "--where", where, "--json"])
        assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == found
    assert "where must be a condition" in failure(capsys, "search", "rain", "--index", index, "--where", "source >")


def test_search_in_a_file_keeps_its_columns(folder, capsys):
    main(["search", "rain", "--corpus", f"{folder}/documents.csv", "--pack", f"{folder}/pack", "--json"])
    (hit, _) = json.loads(capsys.readouterr().out)["hits"]
    main(["search", "rain", "--corpus", f"{folder}/documents.csv", "--base", f"{folder}/base", "--weights", "idf"])
    assert "It fell all night." in capsys.readouterr().out
    assert hit.keys() == {"id", "title", "text", "columns", "score"} and hit["columns"]["source"] in ("news", "book")


def test_evaluate_writes_the_results(folder, tmp_path, capsys):
    main(
        ["evaluate", "--pack", f"{folder}/pack", "--benchmark", str(folder / BENCHMARK), "--output_dir", str(tmp_path)]
    )
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["language"] == "sw" and results["queries"] == 32
    own = results["measures"]["map"]
    assert own["interval"][0] <= own["trained"] <= own["interval"][1] and {"zero_shot", "ceiling"} <= own.keys()
    text = capsys.readouterr().out
    assert f"{own['trained']:.3f} [{own['interval'][0]:.3f}" in text and "base alone" in text
    # The base itself, on the same test set, has the values of the base next to the pack.
    main(
        ["evaluate", "--pack", f"{folder}/base", "--benchmark", str(folder / BENCHMARK), "--output_dir", str(tmp_path)]
    )
    again = json.loads((tmp_path / "eval_results.json").read_text())
    assert again["measures"]["map"]["trained"] == pytest.approx(own["zero_shot"])


def test_evaluate_and_search_weigh_query_tokens(folder, tmp_path, capsys):
    pack = LanguagePack.from_pretrained(folder / "pack")
    replace(pack, known_words={"language": {"na": 9, "ya": 5, "maji": 1}}).save_pretrained(tmp_path / "pack")
    places = ["--pack", str(tmp_path / "pack"), "--base", str(folder / "base")]
    main(
        ["evaluate", *places, "--benchmark", str(folder / BENCHMARK), "--weights", "idf"]
        + ["--output_dir", str(tmp_path)]
    )
    found = json.loads((tmp_path / "eval_results.json").read_text())["measures"]["map"]["trained"]
    retriever = OpticalRetriever.from_pretrained(tmp_path / "pack", base_model=folder / "base", device="cpu")
    data = load_beir(folder / BENCHMARK)
    retriever.learn_spelling(data.document_texts(), base=False)
    evaluator = RetrievalEvaluator(data, retriever.model, retriever.processor)
    documents = retriever.encode_documents(data.document_texts(), language="base")
    queries = [query.text for query in data.queries.values()]
    hits = retriever.search(queries, documents, len(documents), weights="idf", document_ids=list(data.corpus))
    assert found == pytest.approx(evaluator.measure(dict(zip(data.queries, hits, strict=True)))["map"])
    plain = retriever.search(queries, documents, len(documents), document_ids=list(data.corpus))
    assert hits != plain
    capsys.readouterr()

    main(["search", queries[0], *places, "--corpus", f"{folder}/documents.csv", "--json", "--weights", "idf"])
    shown = json.loads(capsys.readouterr().out)["hits"]
    texts = [f"{hit['title']} {hit['text']}".strip() for hit in shown]
    expected = retriever.search(queries[0], retriever.encode_documents(texts), weights="idf")
    assert [hit["score"] for hit in shown] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_train_on_two_aligned_files(folder, tmp_path):
    result = run_hf_optical(
        *("train", "--language", "sw", "--train_file", folder / "train.sw"),
        *("--teacher_model", folder / "base", "--student_model", folder / "base"),
        *("--max_steps", 2, "--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert LanguagePack.from_pretrained(tmp_path / "out").language == "sw"
    assert "language pack is in" in result.stdout and "hf-optical tune" in result.stdout


@pytest.mark.slow
def test_errors_are_the_last_line_behind_a_quiet_launcher(folder):
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "-m", "hf_optical", "train"]
        + ["--language", "sw", "--train_file", str(folder / "nowhere.csv")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr


def test_base_makes_one_that_packs_are_trained_on(folder, tmp_path, capsys):
    (tmp_path / "corpus.csv").write_text("text\nthe water is cold and clear today\nthe market is open\n")
    arguments = ["base", "--model", str(folder / "base"), "--corpus", str(tmp_path / "corpus.csv")]
    assert "pass --center, --dimension or both" in failure(capsys, *arguments, "--output", str(tmp_path / "base"))
    for option, value in (("--dimension", "0"), ("--dimension", "32"), ("--documents", "-1"), ("--batch_size", "0")):
        message = failure(capsys, *arguments, "--center", option, value, "--output", str(tmp_path / "base"))
        assert f"{option} must be" in message
    main([*arguments, "--center", "--dimension", "4", "--output", str(tmp_path / "base")])
    assert "vectors of 4 numbers" in capsys.readouterr().out
    retriever = OpticalRetriever.from_pretrained(tmp_path / "base")
    assert retriever.model.embedding_dim == 4 and retriever.model.projection.bias is not None


def test_tune_translates_by_a_dictionary_where_the_pack_has_no_words(folder, tmp_path, capsys):
    pack = LanguagePack.from_pretrained(folder / "pack")
    replace(pack, vocabulary=None).save_pretrained(tmp_path / "pack")
    (tmp_path / "corpus.csv").write_text("id,text\na,the water is cold\nb,the market is open\n")
    arguments = ["tune", "--pack", str(tmp_path / "pack"), "--corpus", str(tmp_path / "corpus.csv")]
    assert "--dictionary or --train_file" in failure(capsys, *arguments)
    (tmp_path / "words.txt").write_text("maji\twater\nsoko\tmarket\n")
    rows = [{"en": "the water", "sw": "maji"}, {"en": "the market", "sw": "soko"}] * 3
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    for option, file in (("--dictionary", "words.txt"), ("--train_file", "pairs.jsonl")):
        main([*arguments, option, str(tmp_path / file), "--output", str(tmp_path / file.split(".")[0])])
        assert "a strength of" in capsys.readouterr().out
        assert LanguagePack.from_pretrained(tmp_path / file.split(".")[0]).strength in STRENGTHS


def test_tune_stores_the_strength_in_the_pack(folder, tmp_path, capsys):
    pack = LanguagePack.from_pretrained(folder / "pack")
    processor = OpticalProcessor.from_pretrained(folder / "base")
    word = next(token for token in processor.tokenizer.get_vocab() if token.isalpha() and token.islower())
    embedding = OpticalModel.from_pretrained(folder / "base").get_input_embeddings()
    # The new word of the pack translates a word of the documents.
    pack.vocabulary.rows = embedding.weight[[processor.tokenizer.convert_tokens_to_ids(word)]].detach().clone()
    pack.save_pretrained(tmp_path / "pack")
    (tmp_path / "corpus.csv").write_text(f"id,text\na,{word} one\nb,{word} two\n")
    main(["tune", "--pack", str(tmp_path / "pack"), "--corpus", str(tmp_path / "corpus.csv")])
    tuned = LanguagePack.from_pretrained(tmp_path / "pack")
    assert f"a strength of {tuned.strength}" in capsys.readouterr().out
    assert tuned.strength in STRENGTHS and tuned.vocabulary.rows.equal(pack.vocabulary.rows)
