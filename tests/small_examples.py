"""A copy of `examples/` in which fewer questions are asked in fewer passages, so that pages run sooner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tiny import REPOSITORY


def small_examples(folder: Path, questions: int = 32, passages: int = 60, pairs: int | None = None) -> None:
    """Make the folder `examples` with the first sentence pairs and questions, and all passages that answer them."""
    folder.mkdir()
    for path in (REPOSITORY / "examples").iterdir():
        if path.name != "data":
            (folder / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "examples" / "data", folder / "data")
    keep_lines(folder / "data" / "train.jsonl", pairs)
    retrieval = folder / "data" / "retrieval"
    keep_lines(retrieval / "qrels" / "test.tsv", questions + 1)
    keep_lines(retrieval / "queries.jsonl", questions)
    right = {line.split("\t")[1] for line in (retrieval / "qrels" / "test.tsv").read_text().splitlines()[1:]}
    rows = (retrieval / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows.sort(key=lambda row: json.loads(row)["_id"] not in right)
    (retrieval / "corpus.jsonl").write_text("\n".join(rows[:passages]) + "\n", encoding="utf-8")


def keep_lines(file: Path, count: int | None) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()[:count]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
