from __future__ import annotations

import pytest

from hf_optical.errors import DataError
from hf_optical.studies.runs import read_run


def test_documents_are_ordered_by_score(tmp_path):
    file = tmp_path / "run.trec"
    file.write_text("q1 Q0 a 1 0.5 mine\nq1\tQ0\tb\t2\t7e-1\tmine\nq2 Q0 a 1 -3 mine\n", encoding="utf-8")
    found = read_run(file)
    assert {query: [tuple(hit) for hit in hits] for query, hits in found.items()} == {
        "q1": [("b", 0.7), ("a", 0.5)],
        "q2": [("a", -3.0)],
    }


@pytest.mark.parametrize("line", ["q1 a 0.5", "q1 Q0 a 1 nan mine", "q0 Q0 b 3 1 mine"])
def test_other_lines_raise(tmp_path, line):
    file = tmp_path / "run.trec"
    file.write_text(f"q0 Q0 b 1 2 mine\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="run.trec, line 2: "):
        read_run(file)
