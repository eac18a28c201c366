"""Upload and download of a folder, with all faults of the connection and the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download
from storage.local_hub import File

from hf_optical.hub import upload_folder
from hf_optical.storage.fetching import local_folder


CARD = "---\nlanguage: sw\nlicense: apache-2.0\n---\n# A folder\n"
LARGE = "PUT /large/"
COMMIT = "POST /api/models/org/some/commit/"
# Every request of an upload, in order.
STEPS = [
    "POST /api/repos/create",
    "POST /api/validate-yaml",
    "POST /api/models/org/some/preupload/",
    "POST /org/some.git/info/lfs/objects/batch",
    LARGE,
    COMMIT,
]


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "folder"
    for name, content in {
        "README.md": CARD.encode(),
        "config.json": b"{}",
        "sub/words.txt": b"maji\n" * 2000,
        "model.safetensors": bytes(range(256)) * 6000,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_uploaded_files_come_back_and_are_not_sent_twice(hub, folder):
    address = upload_folder(folder, "org/some", commit_message="first")
    assert address == f"{hub.url}/org/some/commit/{address.oid}" and hub.files("org/some") == files_of(folder)
    assert [request.startswith(step) for request, step in zip(dict.fromkeys(hub.requests), STEPS, strict=True)] == [
        True
    ] * 6
    assert hub.repositories["model", "org/some"].messages == ["initial commit", "first"]
    assert len(hub.large) == 1, "only weights are uploaded as large files"
    pulled = files_of(Path(snapshot_download("org/some")))
    assert pulled.pop(".gitattributes") and pulled == files_of(folder)

    (folder / "config.json").write_text('{"a": 1}')
    upload_folder(folder, "org/some")
    assert hub.files("org/some") == files_of(folder)
    commits = [request for request in hub.requests if request.startswith((LARGE, COMMIT))]
    again = upload_folder(folder, "org/some")
    assert [request for request in hub.requests if request.startswith((LARGE, COMMIT))] == commits
    assert (
        sum(request.startswith(LARGE) for request in commits) == 1
        and again.oid == hub.repositories["model", "org/some"].heads["main"]
    )


def test_id_without_namespace_belongs_to_user(hub, folder):
    assert upload_folder(folder, "some", private=True).repo_url.repo_id == "writer/some"
    assert hub.repositories["model", "writer/some"].private
    upload_folder(folder, "org/some", repo_type="dataset")
    assert hub.files("org/some", kind="dataset") == files_of(folder)


def test_pickles_and_private_files_are_not_uploaded(hub, folder):
    whole = files_of(folder)
    for name in (
        *(
            "training_args.bin",
            "pytorch_model.bin",
            "optimizer.pt",
            "rng_state.pth",
            "sub/a.pkl",
            "trainer_state.json",
        ),
        *("checkpoint-5/model.safetensors", "run/checkpoint-7/config.json", ".saving-x/config.json", "sub/.env"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"secret")
    upload_folder(folder, "org/some")
    assert hub.files("org/some") == whole and not any(b"secret" in sent for sent in hub.received)


def test_patterns_select_files_to_upload_and_delete(hub, folder):
    upload_folder(folder, "org/some")
    (folder / "sub" / "words.txt").rename(folder / "sub" / "more.txt")
    (folder / "README.md").write_text(CARD + "edited")
    upload_folder(folder, "org/some", allow_patterns=["sub/*", "*.json"], delete_patterns=["sub/*", "*.json"])
    found = hub.files("org/some")
    assert found.keys() == files_of(folder).keys() and found["README.md"] == CARD.encode()


def test_pull_request_leaves_branch_unchanged(hub, folder):
    upload_folder(folder, "org/some")
    before = hub.files("org/some")
    (folder / "config.json").write_text('{"a": 1}')
    pulled = upload_folder(folder, "org/some", create_pr=True)
    assert pulled.pr_url == f"{hub.url}/org/some/discussions/1" and pulled.pr_revision == "refs/pr/1"
    assert hub.files("org/some") == before and hub.files("org/some", "refs/pr/1") == files_of(folder)


def test_missing_branch_is_created(hub, folder):
    for content in ('{"a": 1}', '{"a": 2}'):
        (folder / "config.json").write_text(content)
        upload_folder(folder, "org/some", revision="try", repo_type="dataset")
        assert hub.files("org/some", "try", "dataset") == files_of(folder)
        assert hub.files("org/some", kind="dataset") == {}


def test_upload_in_background(hub, folder):
    future = upload_folder(folder, "org/some", blocking=False)
    assert future.result(60).startswith(hub.url) and hub.files("org/some") == files_of(folder)
    (folder / "config.json").write_text('{"a": 1}')
    hub.add_fault(COMMIT, status=500)
    with pytest.raises(OSError, match="the Hub answered with an error"):
        upload_folder(folder, "org/some", blocking=False).result(60)


@pytest.mark.parametrize(("token", "private"), [("hf_reader", True), ("hf_nobody", False)])
def test_repository_of_others_cannot_be_written(hub, folder, token, private, monkeypatch):
    upload_folder(folder, "org/some", private=private)
    before, whole, large = hub.files("org/some"), files_of(folder), len(hub.large)
    (folder / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(
        PermissionError, match=r"could not upload to org/some: the Hub refused it \(40[13]\); use a token"
    ):
        upload_folder(folder, "org/some", token=token)
    assert hub.files("org/some") == before and len(hub.large) == large
    assert files_of(folder) == {**whole, "model.safetensors": b"mine"}
    upload_folder(folder, "org/some")
    assert hub.files("org/some") == files_of(folder)
    monkeypatch.setenv("HF_TOKEN", token)
    if private:
        with pytest.raises(
            OSError, match="'org/some' .*could not be fetched from the Hub; check the name, your access"
        ):
            local_folder("org/some")
    else:
        assert (local_folder("org/some") / "config.json").is_file()


@pytest.mark.parametrize(
    ("step", "how"),
    [
        (STEPS[0], {"status": 500}),
        (STEPS[2], {"lost": True}),
        (LARGE, {"cut": 0.5}),
        (LARGE, {"lost": True}),
        (COMMIT, {"cut": 0.5}),
        (COMMIT, {"status": 500}),
        (COMMIT, {"lost": True}),
    ],
)
def test_second_upload_completes_failed_one(hub, folder, step, how):
    upload_folder(folder, "org/some")
    before = hub.files("org/some")
    (folder / "model.safetensors").write_bytes(bytes(range(255, -1, -1)) * 6000)
    (folder / "config.json").write_text('{"a": 1}')
    whole = files_of(folder)
    sent = len(hub.requests)
    hub.add_fault(step, **how)
    expected, reason = (
        (OSError, r"answered with an error \(500\)") if "status" in how else (ConnectionError, "connection broke")
    )
    with pytest.raises(expected, match=rf"(?s)could not upload to org/some: .*{reason}.*call it again to complete"):
        upload_folder(folder, "org/some")
    assert files_of(folder) == whole
    arrived = step == COMMIT and "lost" in how
    assert hub.files("org/some") == (whole if arrived else before), "the commit is all or nothing"
    retried = sum(request.startswith(step) for request in hub.requests[sent:])
    assert retried == (6 if step in STEPS[2:5] else 1), "the client retries requests that are safe to repeat"

    hub.faults.clear()
    had_arrived = len(hub.large) == 2
    sent = len(hub.requests)
    address = upload_folder(folder, "org/some")
    assert hub.files("org/some") == files_of(folder) == whole
    assert address.oid == hub.repositories["model", "org/some"].heads["main"]
    assert any(request.startswith(LARGE) for request in hub.requests[sent:]) == (not had_arrived)
    assert len(hub.repositories["model", "org/some"].commits) == 3


@pytest.mark.parametrize("how", [{"cut": 0.9}, {"status": 503}])
def test_temporary_faults_are_retried(hub, folder, how):
    for step in STEPS[2:5]:
        hub.add_fault(step, 1, **how)
    upload_folder(folder, "org/some")
    assert hub.files("org/some") == files_of(folder)


def test_invalid_metadata_is_error(hub, folder):
    (folder / "README.md").write_text(CARD.replace("sw", "Kiswahili"))
    with pytest.raises(ValueError, match='(?s)Invalid metadata in README.md.*"language" must only contain'):
        upload_folder(folder, "org/some")
    assert hub.files("org/some") == {} and not hub.large
    (folder / "README.md").write_text(CARD)
    upload_folder(folder, "org/some")


@pytest.mark.parametrize("how", [{"cut": 0.5}, {"status": 503}], ids=["cut", "503"])
def test_interrupted_download_is_resumed_or_error(hub, folder, how):
    upload_folder(folder, "org/some")
    weights = "GET /org/some/resolve/.*safetensors"
    if "cut" in how:  # the client resumes
        hub.add_fault(weights, 1, **how)
        assert (local_folder("org/some") / "model.safetensors").read_bytes() == files_of(folder)["model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"other")
    upload_folder(folder, "org/some")
    hub.add_fault(weights, **how)
    with pytest.raises(OSError, match="'org/some' .*could not be fetched from the Hub"):
        local_folder("org/some")
    hub.faults.clear()
    assert (local_folder("org/some") / "model.safetensors").read_bytes() == b"other"


@pytest.mark.parametrize("name", ["a/../../../../../evil.json", "/evil.json"])
def test_file_names_outside_of_folder_are_errors(hub, folder, tmp_path, name):
    upload_folder(folder, "org/some")
    repository = hub.repositories["model", "org/some"]
    repository.commit("main", {**repository.at("main")[1], name: File(b"{}", False)}, "by another client")
    with pytest.raises(OSError, match="'org/some' .*could not be fetched from the Hub"):
        local_folder("org/some")
    assert not list(tmp_path.rglob("evil.json")) and not Path("/evil.json").exists()


def test_upload_with_xet(hub, folder, monkeypatch):
    """By default the client uses hf_xet, but still sends small files to the Hub itself."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    (folder / "model.safetensors").unlink()
    hub.add_fault(COMMIT, status=500)
    whole = files_of(folder)
    with pytest.raises(OSError, match=r"answered with an error \(500\)"):
        upload_folder(folder, "org/some")
    assert hub.files("org/some") == {} and files_of(folder) == whole
    hub.faults.clear()
    upload_folder(folder, "org/some", delete_patterns=["*.txt"])
    assert hub.files("org/some") == whole
