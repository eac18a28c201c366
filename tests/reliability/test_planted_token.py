"""A planted token does not appear in anything that is written or sent."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from storage import local_hub
from storage.local_hub import LocalHub
from tiny import DEMO, REPOSITORY

from hf_optical import OTDistillationConfig
from hf_optical.errors import DataError
from hf_optical.storage.publishing import redact_token
from hf_optical.studies import load_study


WORD = "PLANTEDqZx7"
TOKEN, USELESS = f"hf_{WORD}aaaaaaaaaaaaaaaaaaaaaaa", f"hf_{WORD}bbbbbbbbbbbbbbbbbbbbbbb"


def forms(text: str) -> list[bytes]:
    """Encodings of a text in which a file may contain it: UTF-8, UTF-16, and base64 at three offsets."""
    plain = text.encode()
    coded = [base64.b64encode(b"x" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)]
    return [plain, text.encode("utf-16-le"), *coded]


def contents(path: Path) -> Iterable[bytes]:
    """The bytes of a file, and its content without compression."""
    content = path.read_bytes()
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if content.startswith(b"PAR1") and content.endswith(b"PAR1"):
        table = pq.read_table(path)
        yield repr((table.to_pylist(), table.schema)).encode()


def files_with_token(folder: Path) -> list[str]:
    """The files below a folder that contain the token."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(form in each for each in contents(path) for form in forms(WORD))]


def test_search_finds_every_encoding_of_the_token(tmp_path):
    written = {
        "text.json": TOKEN.encode(),
        "some.gz": gzip.compress(TOKEN.encode()),
        "wide": TOKEN.encode("utf-16-le"),
    }
    written |= {f"coded{i}": base64.b64encode(b"Bearer "[i:] + TOKEN.encode()) for i in range(3)}
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"hub_token": TOKEN}, tmp_path / "training_args.bin")
    pq.write_table(pa.table({"a": ["x" * 10_000 + TOKEN] * 100}), tmp_path / "a.parquet", compression="zstd")
    assert len(files_with_token(tmp_path)) == len(written) + 2
    (tmp_path / "text.json").write_text("hf_optical")
    assert len(files_with_token(tmp_path)) == len(written) + 1


def test_training_arguments_hide_the_token(tmp_path):
    args = OTDistillationConfig(output_dir=str(tmp_path), language="sw", hub_token=TOKEN, use_cpu=True)
    assert args.hub_token == TOKEN
    for text in (str(args), repr(args), args.to_json_string(), repr(args.to_dict())):
        assert "hub_token" in text and WORD not in text


def test_study_cannot_contain_a_token(tmp_path):
    """The study file is published with the report."""
    content = yaml.safe_load((REPOSITORY / "examples" / "studies" / "demo.yaml").read_text())
    content["data_dir"] = str(DEMO)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    load_study(tmp_path / "study.yaml")
    content["training"] = {**(content.get("training") or {}), "hub_token": TOKEN}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match="'hub_token' is set by the study itself") as caught:
        load_study(tmp_path / "study.yaml")
    assert WORD not in str(caught.value)


def test_token_in_a_server_response_is_hidden():
    for error in (OSError(f"no such token {TOKEN}"), ConnectionError("broken")):
        error.__cause__ = ValueError(f"Illegal header value b'Bearer {TOKEN}'")
        message, cause = redact_token(error, TOKEN)
        assert WORD not in message and cause is None
    error = OSError("no such repository")
    assert redact_token(error, TOKEN) == ("no such repository", error)


@pytest.fixture
def hub(monkeypatch) -> Iterable[LocalHub]:
    monkeypatch.setitem(local_hub.TOKENS, TOKEN, ["writer", "org"])
    with LocalHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


@pytest.mark.promise(
    "Safety",
    "Access tokens never appear in checkpoints, packs, cards, reports, caches, DEBUG logs, tracebacks or uploads.",
)
@pytest.mark.slow
def test_token_is_never_written_or_sent(hub, tmp_path):
    pytest.importorskip("matplotlib")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    # All folders that anything could be written to are below this one.
    places = ("HF_HOME", "HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME")
    for name in (*places, "out"):
        (tmp_path / "all" / name).mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-m", "reliability.planted_run", str(tmp_path / "all" / "out"), TOKEN, USELESS],
        cwd=REPOSITORY / "tests",
        env={
            **kept,
            **{name: str(tmp_path / "all" / name) for name in places},
            **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_DEBUG": "1"},
            **{"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        },
        capture_output=True,
        timeout=500,
    )
    assert result.returncode == 0 and b"all done" in result.stdout, result.stderr[-4000:].decode()
    (tmp_path / "all" / "stdout").write_bytes(result.stdout)
    (tmp_path / "all" / "stderr").write_bytes(result.stderr)
    for number, sent in enumerate(hub.received):
        (tmp_path / "all" / f"sent-{number}").write_bytes(sent)
    for name in ("run/checkpoint-2/trainer_state.json", "run/language_pack.json", "run/README.md", "report/report.md"):
        assert (tmp_path / "all" / "out" / name).is_file(), f"{name} was not written"
    assert result.stderr.count(b"Traceback") >= 12 and b"DEBUG" in result.stderr
    assert files_with_token(tmp_path / "all") == []
