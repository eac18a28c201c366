"""Damaged language packs and checkpoints of every layout open, or raise a clear error."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from packs import WORDS, make_pack
from reliability.folders import LAYOUTS, sign_pack, write_layout
from reliability.fuzzing import SECONDS, examine, limited_memory, mutated_bytes, mutated_json, only_clear_errors
from tiny import tiny_checkpoint

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor


KINDS = (*LAYOUTS, "pack", "signed pack")


def open_layout(folder: Path) -> None:
    with only_clear_errors(folder, (OSError, ValueError)):
        OpticalModel.from_pretrained(folder)
    with only_clear_errors(folder, (OSError, ValueError)):
        OpticalProcessor.from_pretrained(folder)


def opens_pack(base: Path, signed: bool) -> Callable[[Path], None]:
    def open_pack(folder: Path) -> None:
        if signed:
            sign_pack(folder)
        pack = None
        with only_clear_errors(folder, (OSError,)):
            pack = LanguagePack.from_pretrained(folder)
        if pack is not None:
            with only_clear_errors("the pack for", (ValueError,)):
                pack.attach(OpticalModel.from_pretrained(base))

    return open_pack


@pytest.fixture
def check(request, tmp_path) -> Callable[[st.DataObject], None]:
    """Return a function that draws a damaged copy of a folder of a kind and opens it."""
    kind, whole, copy = request.param, tmp_path / "whole", tmp_path / "copy"
    if kind in LAYOUTS:
        write_layout(whole, kind)
        opened = open_layout
    else:
        base = tiny_checkpoint(tmp_path / "base")
        make_pack(base, "sw", 1, WORDS).save_pretrained(whole)
        opened = opens_pack(base, kind == "signed pack")
    opened(shutil.copytree(whole, copy))
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    parsed = {name: json.loads((whole / name).read_text()) for name in names if name.endswith(("json", "metadata"))}

    def check(data: st.DataObject) -> None:
        shutil.rmtree(copy)
        shutil.copytree(whole, copy, copy_function=os.link)
        name = data.draw(st.sampled_from(names))
        (copy / name).unlink()
        # Readers make mistakes with structure; JSON with a changed byte is mostly not JSON at all.
        if name in parsed and data.draw(st.integers(0, 3)):
            (copy / name).write_text(data.draw(mutated_json(parsed[name])))
        else:
            (copy / name).write_bytes(data.draw(mutated_bytes((whole / name).read_bytes())))
        with warnings.catch_warnings(), limited_memory(8 * 2**30):
            # Libraries may warn that they ignore an unknown setting.
            warnings.simplefilter("ignore")
            opened(copy)

    return check


@pytest.mark.parametrize("check", ["pylate", "multi_vector_encoder", "stanford", "signed pack"], indirect=True)
def test_damaged_folder_opens_or_raises_clear_error(check):
    assert examine(check, examples=8) >= 5


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * SECONDS)
@pytest.mark.parametrize("check", KINDS, indirect=True)
def test_long_fuzzing_of_folders(check):
    assert examine(check, seconds=SECONDS) >= SECONDS
