"""Runs that are killed, at any moment and in the middle of any file, and gone on with by the same command."""

from __future__ import annotations

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
    """What a run leaves behind that nobody kills, and how long it is."""
    known: dict[str, tuple[dict[str, Any], tuple[int, float]]] = {}

    def get(run: Run) -> tuple[dict[str, Any], tuple[int, float]]:
        if run.__name__ not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / run.__name__
            length = runs.whole(run, folder)
            known[run.__name__] = outcome(folder), length
        return known[run.__name__]

    return get


@pytest.fixture
def kill_and_go_on(runs, undisturbed, tmp_path) -> Callable[[Run, str, int], None]:
    def check(run: Run, kind: str, seed: int) -> None:
        expected, length = undisturbed(run)
        folder = tmp_path / f"{run.__name__}-{kind}-{seed}"
        # Every other run is killed a second time, while it goes on.
        for number in range(1 + seed % 2):
            kill = Kill.draw(kind, seed + 1000 * number)
            while not runs.kill(run, folder, kill, *length) and not number:
                # It came to its end before.
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
    """Every file, and all that is in it but the time and the place."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: told(path, folder) for name, path in files.items()}


def told(path: Path, folder: Path) -> Any:
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8").replace(str(folder), "")))
    if path.name == "report.md":
        return path.read_text(encoding="utf-8").partition("## Time")[0]
    return None if path.name in ("study.log", "README.md") else path.read_bytes()


def timeless(content: Any) -> Any:
    """JSON without what is a matter of time: `train_loss` is the mean since the run was last started."""
    if isinstance(content, dict):
        clock = re.compile("second|runtime|hardware|^time$|^train_loss$")
        return {name: timeless(own) for name, own in content.items() if not clock.search(name)}
    return [timeless(own) for own in content] if isinstance(content, list) else content


def check_whole(folder: Path) -> None:
    """Whatever may be looked at is whole: all but folders in the making, and checkpoints that are passed over."""
    halves = {path for path in folder.glob("checkpoint-*") if not resumable(path)}
    for path in folder.rglob("*"):
        in_the_making = any(part.startswith(".saving-") for part in path.relative_to(folder).parts)
        if path.suffix in READ and not in_the_making and halves.isdisjoint(path.parents):
            READ[path.suffix](path)


def resumable(checkpoint: Path) -> bool:
    try:
        return checkpoint_to_resume(checkpoint.parent, str(checkpoint)) is not None
    except FileNotFoundError:
        return False


def check_weights(folder: Path, expected: dict[str, Any]) -> None:
    """A pack that is there can be opened, and is the one of the run that nobody kills."""
    for file in [path for path in folder.rglob("language_pack.json") if ".saving-" not in str(path)]:
        if file.parent.name.startswith("checkpoint-"):
            continue
        LanguagePack.from_pretrained(file.parent)
        weights = file.with_name("adapter_model.safetensors")
        assert weights.read_bytes() == expected[str(weights.relative_to(folder))]


@pytest.mark.promise(
    "Stopping anywhere",
    "A training run that is killed at any moment, or in the middle of any file that it writes, goes on "
    "with `--resume_from_checkpoint last` and ends with the same weights, optimizer state, random state "
    "and losses, bit for bit; a second kill while it goes on changes nothing.",
)
@pytest.mark.promise(
    "Stopping anywhere",
    "So does a study: the same command goes on, with the same packs, values and report. After a kill "
    "every file that anything would read is whole.",
)
@pytest.mark.parametrize(("run", "kind", "seed"), [(train, "change", 1), (train, "torn", 2), (study, "torn", 0)])
def test_killed_and_gone_on_with(kill_and_go_on, run, kind, seed):
    kill_and_go_on(run, kind, seed)


def test_a_pack_that_is_written_over_opens_as_the_old_one_or_the_new(runs, tmp_path):
    """Killed at some of the changes that the second one makes to the folder."""
    changes, seconds = runs.whole(save_packs, tmp_path / "whole")
    places, seen = range(changes // 2, changes, changes // 16), []
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
    "So does that of a retriever: the base, all packs and the list of languages are one.",
)
def test_a_retriever_that_is_written_over_opens_as_the_old_one_or_the_new(runs, tmp_path):
    """Killed at some of the changes that the second one makes to the folder, most of them when it moves in."""
    old = OpticalRetriever.from_pretrained(runs.inputs / "tiny", device="cpu")
    for seed, language in enumerate(("ha", "sw")):
        old.add_language(language, make_pack(runs.inputs / "tiny", language, seed, WORDS))
    old.save_pretrained(tmp_path / "old")
    expected, seen = {"old": heard(old), "new": heard(old.merge("sw"))}, []
    changes, seconds = runs.whole(save_merged, shutil.copytree(tmp_path / "old", tmp_path / "whole"))
    places = [changes // 4, *range(changes // 2, changes, changes // 12)]
    for place in places:
        folder = shutil.copytree(tmp_path / "old", tmp_path / str(place))
        assert runs.kill(save_merged, folder, Kill("change", (place + 0.5) / changes, 0), changes, seconds)
        found = heard(OpticalRetriever.from_pretrained(folder, device="cpu"))
        seen += [which for which in expected if found == expected[which]]
    assert len(seen) == len(places) and seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def heard(retriever: OpticalRetriever) -> list[Any]:
    """Which languages are open and what it reads in each."""
    vectors = [retriever.encode_queries(TEXTS, language=code) for code in (*retriever.languages, "base")]
    return [retriever.languages, [[query.tolist() for query in own] for own in vectors]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 118))
@pytest.mark.parametrize("kind", ["moment", "change", "torn"])
def test_killed_anywhere(kill_and_go_on, kind, seed):
    # A third of the 54 in studies.
    kill_and_go_on(train if seed % 3 else study, kind, seed)
