from __future__ import annotations

import json

import pytest
from encoding_runs import corpus_ids, ids_of, write_corpus
from tiny import tiny_checkpoint

from hf_optical.cli import main


pytest.importorskip("lance")


def test_encode_reports_failed_shards_and_what_was_encoded(tiny, tmp_path, capsys):
    broken = tiny_checkpoint(tmp_path / "broken", document_length=600)
    long = json.dumps({"_id": "c5", "text": "water " * 600})
    files = map(str, write_corpus(tmp_path / "corpus", c5=long))
    options = ["--output", str(tmp_path / "out"), "--shards", "5", "--processes", "1"]
    with pytest.raises(SystemExit, match=r"(?s)^error: 1 of 5 shards failed.*c\.jsonl\.gz, line 6: texts must have"):
        main(["encode", "--corpus", *files, *options, "--model", str(broken)])
    assert "Encoding" in (shown := capsys.readouterr().err) and "tokens" in shown
    # The shell may leave a pattern as it is.
    main(["encode", "--corpus", str(tmp_path / "corpus" / "*.gz"), *options, "--model", str(tiny), "--restart"])
    assert "20 documents were encoded" in capsys.readouterr().out
    assert ids_of(tmp_path / "out") == corpus_ids()
    with pytest.raises(SystemExit, match=r"^error: .*out already holds a dataset"):
        main(["encode", "--corpus", str(tmp_path / "corpus" / "*.gz"), *options, "--model", str(tiny)])
