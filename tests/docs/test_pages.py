"""The code, commands and configurations in the tutorial, the how-to guides and the concepts run as they are."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from packs import untrained_pack
from small_examples import small_examples
from tiny import DEMO, MINILM, REPOSITORY, demo_pairs

from hf_optical.methods import Method
from hf_optical.studies import load_study
from hf_optical.training import parse_run


DOCS = REPOSITORY / "docs"
NOTEBOOK = DOCS / "tutorial" / "from_texts_to_search.ipynb"
PAGES = {
    f"{folder}/{page.stem}": page.read_text(encoding="utf-8")
    for folder in ("how_to", "concepts")
    for page in sorted((DOCS / folder).glob("*.md"))
}
# A block after `<!-- not run: reason -->` needs what a test does not have.
BLOCK = r"(?<!-->\n)^```{language}\n(.*?)^```"
# What the test machine lacks: the Hub, other servers, a Ray cluster; and commands that do not end by themselves.
ELSEWHERE = re.compile(
    r"s3://|--ray|intfloat/|namespace/|bases\.yaml|study\.yaml|hf-optical (serve|demo)|--processes 8"
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(BLOCK.format(language=language), PAGES[page], flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> Iterator[list[str]]:
    """The commands of this library on a page, without environment variables and launcher: `["train", ...]`."""
    for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        if found := re.search(r"(?:hf-optical|-m hf_optical|examples/distill\.py) (.*)", line):
            arguments = shlex.split(found[1], comments=True)
            yield ["train", *arguments] if "distill.py" in line else arguments


def with_blocks(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The files that the pages assume, made of the embedded data."""
    folder = tmp_path_factory.mktemp("pages")
    for name, pairs in {"train": demo_pairs()[:80], "valid": demo_pairs("validation")[:10]}.items():
        for language, extension in {"sw": "sw", "ha": "sw", "en": "en"}.items():
            lines = "".join(pair[extension] + "\n" for pair in pairs)
            (folder / f"{name}.{language}").write_text(lines, encoding="utf-8")
    (folder / "english.txt").write_text((folder / "train.en").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "sw-en.txt").write_text("maji\twater\nnyumba\thouse\nmtoto\tchild\nwatoto\tchildren\n", encoding="utf-8")

    lines = (DEMO / "retrieval" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    passages = [json.loads(line) for line in lines]
    rows = [(row["_id"], row["text"], ("book", "news")[number % 2]) for number, row in enumerate(passages)]
    for name, part in {"documents": rows[:30], "new": rows[30:]}.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "text", "source"), *part])
    (folder / "corpus").mkdir()
    (folder / "corpus" / "part.jsonl.gz").write_bytes(gzip.compress(_json_lines(passages[:10])))
    lines = (DEMO / "retrieval" / "qrels" / "test.tsv").read_text().splitlines()[:9]  # questions on food
    for questions in (folder / "questions" / "sw", folder / "questions" / "ha"):
        (questions / "qrels").mkdir(parents=True)
        (questions / "qrels" / "test.tsv").write_text("\n".join(lines))
        shutil.copy(DEMO / "retrieval" / "queries.jsonl", questions)
        (questions / "corpus.jsonl").write_bytes(_json_lines(passages))
    return folder


def _json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def packs(files) -> Path:
    """Packs before training, whose new words come from the sentence pairs."""
    pack = untrained_pack("sw")
    for code in ("sw", "ha"):
        replace(pack, language=code).save_pretrained(files / "outputs" / code)
    return files


@pytest.fixture
def folder(packs, tmp_path, monkeypatch) -> Path:
    """A copy of these files as the working folder."""
    shutil.copytree(packs, tmp_path / "work")
    (tmp_path / "work" / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    small_examples(tmp_path / "work" / "examples")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.filterwarnings("ignore:lance is not fork-safe:UserWarning")
@pytest.mark.parametrize("page", with_blocks("python"))
def test_snippets_run(page, folder, monkeypatch, capsys):
    monkeypatch.setattr(Method, "registered", dict(Method.registered))
    if page == "how_to/million_passages":
        from hf_optical import OpticalRetriever
        from hf_optical.index import create_index

        create_index("outputs/lance", OpticalRetriever.from_pretrained(MINILM), "documents.csv", engine="lance")
    scope: dict = {"__name__": "page"}
    for snippet in blocks(page, "python"):
        # Two steps show that training runs.
        short = "max_steps=2, logging_steps=1, use_cpu=True, report_to='none'"
        snippet = re.sub(r"num_train_epochs=\d+", short, snippet)
        exec(compile(snippet, f"{page}.md", "exec", dont_inherit=True), scope)
    if page == "how_to/keep_index":
        theirs = [torch.from_numpy(vectors) for vectors in np.load("outputs/index.npz").values()]
        assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(theirs, scope["after"], strict=True))
        assert "mosquitoes" in capsys.readouterr().out
    if page == "how_to/add_method":
        log = next(log for log in scope["trainer"].state.log_history if "loss" in log)
        assert log["loss_nearest"] == pytest.approx(log["loss"], abs=1e-4) and log["nearest_cosine"] > 0
        card = Path("outputs/nearest/README.md").read_text(encoding="utf-8")
        assert "pulled to the nearest token that the teacher reads in English" in card and "me2026nearest" in card


def test_commands_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 20
    for name, *arguments in found:
        if name == "train":
            parse_run([argument for argument in arguments if argument != "..."])
        else:
            make_parser = import_module(f"hf_optical.cli.{name}").make_parser
            (make_parser(None) if name == "compare" else make_parser()).parse_args(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))])
def test_commands_run(page, folder):
    from example_scripts import run_hf_optical

    short = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none"]
    for command in commands(page):
        if ELSEWHERE.search(shlex.join(["hf-optical", *command])):
            continue
        # The runner starts in the repository, so paths are made absolute.
        command = [
            str(folder / part) if "*" in part or "outputs/" in part or (folder / part).exists() else part
            for part in command
        ]
        if command[0] == "train":
            if "--output_dir" in command:  # a pack of the fixture, or what the command before this one trained
                shutil.rmtree(command[command.index("--output_dir") + 1], ignore_errors=True)
            if "--resume_from_checkpoint" in command:  # something must have stopped
                assert run_hf_optical(*command[:-2], *short).returncode == 0
            command += short
        result = run_hf_optical(*command)
        assert result.returncode == 0, f"{command}: {result.stderr[-2000:]}"


@pytest.mark.slow
def test_script_that_starts_processes_runs(folder):
    (snippet,) = [snippet for snippet in blocks("how_to/many_gpus", "python") if "__main__" in snippet]
    (folder / "script.py").write_text(snippet, encoding="utf-8")
    result = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == "10"


def test_studies_are_valid(tmp_path):
    found = [block for page in PAGES for block in blocks(page, "yaml")]
    assert found
    for block in found:
        (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
        # It fails only because its data files are missing.
        with pytest.raises(ValueError, match="data files are missing"):
            load_study(tmp_path / "study.yaml")


def test_tutorial_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the tutorial is a notebook")
    client = pytest.importorskip("nbclient", reason="the tutorial is executed by nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        # A few steps and passages show that everything runs and that training helps.
        cell.source = cell.source.replace("max_steps=20", "max_steps=5, per_device_train_batch_size=16")
    small_examples(tmp_path / "examples", pairs=360)
    place = tmp_path / "docs" / "tutorial"
    place.mkdir(parents=True)

    resources = {"metadata": {"path": str(place)}}
    client.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, outputs in zip(cells, stored, strict=True):
        assert _kinds(outputs) == _kinds(cell.outputs), f"store the outputs of the notebook again:\n{cell.source}"
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    untrained, trained, ceiling = map(
        float, re.search(r"untrained (\S+), trained (\S+), ceiling (\S+)", printed).groups()
    )
    assert untrained < 0.1 < 0.5 < trained < ceiling


def _kinds(outputs: list) -> set[str]:
    """Streams and types of data in the outputs of a cell, without messages."""
    return {kind for output in outputs for kind in output.get("data", [output.get("name")])} - {"stderr"}
