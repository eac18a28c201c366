"""Checks before an upload, and uploads over HTTP to a local Hub, in a process of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from packs import make_pack

from hf_optical import OTDistillationConfig, OTDistillationTrainer
from hf_optical.hub import upload_folder


def test_uploads_over_http(tmp_path):
    """Run the tests in `over_http/` in one process, since the client reads the URL of the Hub when it is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    files = ["transfers.py", "students.py", "studies.py"]
    # The client uses a deprecated option of its HTTP library for large files.
    known = "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
    result = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", known), *files],
        cwd=Path(__file__).parent / "over_http",
        env={
            **environment,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


@pytest.fixture
def logged_out(tmp_path, monkeypatch):
    """No user is logged in."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


def test_invalid_repository_id_is_error(tmp_path):
    for repo_id in ("org/a b", "a/b/c", ""):
        with pytest.raises(ValueError, match="(?i)repo.id"):
            upload_folder(tmp_path, repo_id, token="hf_token")


def test_missing_token_is_error(logged_out, tmp_path, tiny):
    for token in (None, False, True):
        with pytest.raises(PermissionError, match="no token to upload to org/some .*settings/tokens.*hf auth login"):
            upload_folder(tmp_path, "org/some", token=token)
    with pytest.raises(PermissionError, match="no token"):
        make_pack(tiny, "sw", 0).push_to_hub("org/some")


def test_token_with_other_characters_is_error_and_not_shown(tmp_path):
    """The HTTP library refuses such a header with a message that contains the token."""
    for end in ("\r\nX: y", " ", "é"):
        with pytest.raises(ValueError, match="the token to upload to org/some with must be printable ASCII") as caught:
            upload_folder(tmp_path, "org/some", token=f"hf_secret{end}")
        assert "hf_secret" not in "".join(map(str, (caught.value, caught.value.__cause__, caught.value.__context__)))


def test_run_that_cannot_be_published_does_not_start(logged_out, tiny, tmp_path):
    settings = {"output_dir": str(tmp_path), "language": "sw", "use_cpu": True, "push_to_hub": True}
    settings |= {"new_words": 0, "eval_strategy": "no"}
    for error, options in {
        PermissionError: {"hub_model_id": "org/some"},
        ValueError: {"hub_model_id": "org/so me", "hub_token": "hf_token"},
    }.items():
        with pytest.raises(error, match="org/so"):
            OTDistillationTrainer(str(tiny), str(tiny), OTDistillationConfig(**settings, **options))


def test_missing_folder_and_connection_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder .*none to upload does not exist"):
        upload_folder(tmp_path / "none", "org/some", token="hf_token")
    with pytest.raises(ConnectionError, match="could not be reached.*The Hub client says: .*offline mode is enabled"):
        upload_folder(tmp_path, "org/some", token="hf_token")
