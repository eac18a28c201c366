"""Runs that are killed at any moment, or in the middle of writing any file, resume with the same command."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from packs import TEXTS, WORDS, make_pack
from reliability.killed_run import Kill, Run, Runs, prepare, save_merged, save_packs, study, train
from safetensors.torch import load_file

from hf_optical import LanguagePack, OpticalRetriever
from hf_optical.training.checkpoints import checkpoint_to_resume


READ: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".safetensors": load_file,
    ".arrow": lambda path: {path.stem: True}[hashlib.sha256(path.read_bytes()).hexdigest()],
    ".png": matplotlib.image.imread,
    ".pt": lambda path: zipfile.ZipFile(path).testzip(),
    ".pth": lambda path: zipfile.ZipFile(path).testzip(),
    ".md": lambda path: path.read_text(encoding="utf-8"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(prepare(tmp_path_factory.mktemp("inputs")))


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory) -> Callable[[Run], tuple[dict[str, Any], tuple[int, float]]]:
    """Return a function that gives the files and the length of a run that is not killed."""
    known: dict[str, tuple[dict[str, Any], tuple[int, float]]] = {}

    def get(run: Run) -> tuple[dict[str, Any], tuple[int, float]]:
        if run.__name__ not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / run.__name__
            length = runs.whole(run, folder)
            known[run.__name__] = outcome(folder), length
        return known[run.__name__]

    return get


@pytest.fixture
def kill_and_resume(runs, undisturbed, tmp_path) -> Callable[[Run, str, int], None]:
    def check(run: Run, kind: str, seed: int) -> None:
        expected, length = undisturbed(run)
        folder = tmp_path / f"{run.__name__}-{kind}-{seed}"
        # Every other run is killed a second time after it was resumed.
        for number in range(1 + seed % 2):
            kill = Kill.draw(kind, seed + 1000 * number)
            while not runs.kill(run, folder, kill, *length) and not number:
                # It ended before the kill.
                shutil.rmtree(folder)
                kill = replace(kill, place=kill.place / 2)
            check_whole(folder)
            check_weights(folder, expected)
        runs.whole(run, folder)
        found = outcome(folder)
        assert found.keys() == expected.keys(), folder.name
        assert [name for name in found if found[name] != expected[name]] == [], folder.name

    return check


def outcome(folder: Path) -> dict[str, Any]:
    """Content of every file, without times and paths."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: comparable(path, folder) for name, path in files.items()}


def comparable(path: Path, folder: Path) -> Any:
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8").replace(str(folder), "")))
    if path.name == "report.md":
        return path.read_text(encoding="utf-8").partition("## Time")[0]
    if path.name == "results.csv":
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
    return None if path.name in ("study.log", "README.md") else path.read_bytes()


def timeless(content: Any) -> Any:
    """JSON without values that depend on time; `train_loss` is the mean since the run was last started."""
    if isinstance(content, dict):
        clock = re.compile("second|runtime|hardware|^time$|^train_loss$")
        return {name: timeless(own) for name, own in content.items() if not clock.search(name)}
    return [timeless(own) for own in content] if isinstance(content, list) else content


def check_whole(folder: Path) -> None:
    """Check that every file is complete, except in staging folders and in checkpoints that resuming skips."""
    incomplete = {path for path in folder.glob("checkpoint-*") if not resumable(path)}
    for path in folder.rglob("*"):
        staged = any(part.startswith(".saving-") for part in path.relative_to(folder).parts)
        if path.suffix in READ and not staged and incomplete.isdisjoint(path.parents):
            READ[path.suffix](path)


def resumable(checkpoint: Path) -> bool:
    try:
        return checkpoint_to_resume(checkpoint.parent, str(checkpoint)) is not None
    except FileNotFoundError:
        return False


def check_weights(folder: Path, expected: dict[str, Any]) -> None:
    """Check that every pack opens and equals that of a run that is not killed."""
    for file in [path for path in folder.rglob("language_pack.json") if ".saving-" not in str(path)]:
        if file.parent.name.startswith("checkpoint-"):
            continue
        LanguagePack.from_pretrained(file.parent)
        weights = file.with_name("adapter_model.safetensors")
        assert weights.read_bytes() == expected[str(weights.relative_to(folder))]


@pytest.mark.promise(
    "Stopping anywhere",
    "A training run that is killed at any moment, or in the middle of writing any file, resumes with "
    "`--resume_from_checkpoint last` and ends with the same weights, optimizer state, random state and losses, bit "
    "for bit, even if it is killed a second time.",
)
@pytest.mark.promise(
    "Stopping anywhere",
    "A study that is killed resumes with the same command and ends with the same packs, values and report. After a "
    "kill, every file that would be read is complete.",
)
@pytest.mark.parametrize(("run", "kind", "seed"), [(train, "change", 1), (study, "torn", 0)])
def test_killed_run_resumes_to_the_same_result(kill_and_resume, run, kind, seed):
    kill_and_resume(run, kind, seed)


def test_pack_killed_while_overwritten_opens_as_old_or_new(runs, tmp_path):
    """Killed at some of the changes that the second save makes to the folder."""
    changes, seconds = runs.whole(save_packs, tmp_path / "whole")
    places, seen = range(changes // 2, changes, changes // 7), []
    expected = {seed: make_pack(runs.inputs / "tiny", "sw", seed, WORDS) for seed in (1, 2)}
    for place in places:
        folder = tmp_path / str(place)
        assert runs.kill(save_packs, folder, Kill("change", (place + 0.5) / changes, 0), changes, seconds)
        found = LanguagePack.from_pretrained(folder)
        seen += [seed for seed, pack in expected.items() if same(found, pack)]
    assert len(seen) == len(places) and seen == sorted(seen) and set(seen) == {1, 2}


def same(one: LanguagePack, other: LanguagePack) -> bool:
    weights = [{**pack.weights, "rows": pack.vocabulary.rows} for pack in (one, other)]
    return all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.promise(
    "Stopping anywhere",
    "A retriever that is killed while it is saved over another opens as the old one or the new one, with its base, "
    "packs and list of languages consistent.",
)
def test_retriever_killed_while_overwritten_opens_as_old_or_new(runs, tmp_path):
    """Killed at some of the changes that the second save makes, mostly when it replaces the first."""
    old = OpticalRetriever.from_pretrained(runs.inputs / "tiny", device="cpu")
    for seed, language in enumerate(("ha", "sw")):
        old.add_language(language, make_pack(runs.inputs / "tiny", language, seed, WORDS))
    old.save_pretrained(tmp_path / "old")
    expected, seen = {"old": encodings(old), "new": encodings(old.merge("sw"))}, []
    changes, seconds = runs.whole(save_merged, shutil.copytree(tmp_path / "old", tmp_path / "whole"))
    places = [changes // 4, *range(changes // 2, changes, changes // 7)]
    for place in places:
        folder = shutil.copytree(tmp_path / "old", tmp_path / str(place))
        assert runs.kill(save_merged, folder, Kill("change", (place + 0.5) / changes, 0), changes, seconds)
        found = encodings(OpticalRetriever.from_pretrained(folder, device="cpu"))
        seen += [which for which in expected if found == expected[which]]
    assert len(seen) == len(places) and seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def encodings(retriever: OpticalRetriever) -> list[Any]:
    """Which languages are open and what it reads in each."""
    vectors = [retriever.encode_queries(TEXTS, language=code) for code in (*retriever.languages, "base")]
    return [retriever.languages, [[query.tolist() for query in own] for own in vectors]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 118))
@pytest.mark.parametrize("kind", ["moment", "change", "torn"])
def test_run_killed_anywhere_resumes(kill_and_resume, kind, seed):
    # A third of the 54 runs are studies.
    kill_and_resume(train if seed % 3 else study, kind, seed)
