"""Upload to the Hub. Everything that is published goes through this module."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import validate_repo_id


# Files that are never uploaded, in any subfolder (`*` matches slashes too): pickles, which can run code and of which
# `training_args.bin` contains the Hub token; the state of a run, which contains local paths; hidden files.
_PICKLES = ("bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "distcp")
_NEVER = [
    *(f"*.{ending}" for ending in _PICKLES),
    *(each for name in ("trainer_state.json", "checkpoint-*", ".*") for each in (name, f"*/{name}")),
]

# Errors of the client for an error response, a broken connection, or a page that is not the Hub's.
_REMOTE = (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


def create_repository(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: bool | str | None = None
) -> str:
    """
    Create a repository on the Hub, unless it exists.

    Args:
        repo_id (`str`): its id, `"name"` or `"namespace/name"`.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*): whether a new one is private. Defaults to the setting of the namespace.
        token (`bool` or `str`, *optional*): as in `huggingface_hub`; by default that of the user who is logged in.

    Returns:
        `str`: the id with its namespace.

    Raises:
        ValueError: `repo_id` is not a valid repository id, or the token has characters that no token has.
        PermissionError: there is no token, or it has no write access to the namespace.
        OSError: the Hub cannot be reached, or fails.
    """
    # Older clients accept letters beyond ASCII, which the Hub refuses.
    validate_repo_id(repo_id.encode("ascii", "replace").decode())
    _check_token(repo_id, token)
    with _explain_upload_errors(repo_id, token):
        return HfApi(token=token).create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    allow_patterns: Sequence[str] | None = None,
    delete_patterns: Sequence[str] | None = None,
    blocking: bool = True,
) -> CommitInfo | Future[CommitInfo]:
    """
    Upload a folder to a repository, which is created if it does not exist.

    Pickles, checkpoints and hidden files are left out. Files that have not changed are not sent again, so the same
    call completes an interrupted upload.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        repo_id (`str`), repo_type (`str`), private (`bool`), token (`bool` or `str`): see [`create_repository`].
        revision (`str`, *optional*): the branch, created if it does not exist. Defaults to `"main"`.
        commit_message (`str`, *optional*): the first line of the commit's message.
        create_pr (`bool`, defaults to `False`): whether to open a pull request instead.
        allow_patterns (sequence of `str`, *optional*): upload only files that match one of these.
        delete_patterns (sequence of `str`, *optional*): delete files of the repository that match one of these and
            are not in the folder.
        blocking (`bool`, defaults to `True`): whether to wait until the upload ends.

    Returns:
        [`~huggingface_hub.CommitInfo`]: a `str`, the URL of the commit; with `blocking=False`, a `Future` of it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `repo_id` is not a valid repository id, or the Hub refuses the metadata in `README.md`.
        PermissionError: there is no token, or it has no write access.
        OSError: the connection broke, or the Hub failed. The local files are unchanged.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"folder {folder} to upload does not exist")
    repo_id = create_repository(repo_id, repo_type=repo_type, private=private, token=token)
    api = HfApi(token=token)

    def upload() -> CommitInfo:
        with _explain_upload_errors(repo_id, token):
            if revision is not None and not create_pr and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                repo_type=repo_type,
                folder_path=Path(folder),
                revision=revision,
                commit_message=commit_message or "Upload with hf_optical",
                create_pr=create_pr,
                allow_patterns=None if allow_patterns is None else list(allow_patterns),
                delete_patterns=None if delete_patterns is None else list(delete_patterns),
                ignore_patterns=list(_NEVER),
            )

    return upload() if blocking else api.run_as_future(upload)


class PushToHub:
    """Mixin that adds `push_to_hub` to classes with `save_pretrained`."""

    # Files that an earlier upload may have left in a repository and that would be read together with the new ones.
    _optional_files: ClassVar[tuple[str, ...]] = ()
    save_pretrained: Callable[..., Any]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """
        Save to a temporary folder and upload it to a repository on the Hub, which is created if it does not exist.

        Arguments, result and errors are those of [`~hub.upload_folder`].
        """
        repo_id = create_repository(repo_id, private=private, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self._save_for_hub(Path(folder), repo_id)
            commit = upload_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                create_pr=create_pr,
                delete_patterns=self._optional_files or None,
            )
        return cast(CommitInfo, commit)

    def _save_for_hub(self, folder: Path, repo_id: str) -> None:
        self.save_pretrained(folder)


def _check_token(repo_id: str, token: bool | str | None) -> None:
    secret = _token_text(token)
    if not secret:
        raise PermissionError(
            f"there is no token to upload to {repo_id} with; create one with write access at "
            "https://huggingface.co/settings/tokens, then log in with `hf auth login`, set HF_TOKEN or pass token"
        )
    if not re.fullmatch(r"[!-~]+", secret):  # the HTTP library would print the whole header
        raise ValueError(
            f"the token to upload to {repo_id} with must be printable ASCII, without spaces or line breaks; copy it "
            "again from https://huggingface.co/settings/tokens"
        )


def _token_text(token: bool | str | None) -> str:
    """The token that is sent for `token`; empty if there is none."""
    if isinstance(token, str):
        return token
    return "" if token is False else get_token() or ""


def redact_token(error: Exception, token: bool | str | None = None) -> tuple[str, Exception | None]:
    """
    Remove the token from the message of an error of the Hub's client: a server or proxy may repeat it in a response.

    Returns the message, and the error to raise from: `None` if it or one of its causes contains the token.
    """
    secret, message = _token_text(token), str(error).strip()
    if secret and any(secret in f"{each} {each!r}" for each in _causes(error)):
        return message.replace(secret, "<token>"), None
    return message, error


def _causes(error: BaseException) -> list[BaseException]:
    """An error, its cause, the cause of that, ..."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


@contextmanager
def _explain_upload_errors(repo_id: str, token: bool | str | None) -> Iterator[None]:
    """Turn errors of the Hub or the connection into an `OSError` that says what to do; others stay as they are."""
    try:
        yield
    except Exception as error:
        remote = next((each for each in _causes(error) if isinstance(each, _REMOTE)), None)
        refused_card = isinstance(error, ValueError) and remote is not error
        if remote is None or refused_card:
            raise
        kind: type[OSError]
        status = remote.response.status_code if isinstance(remote, HfHubHTTPError) else None
        if status in (401, 403, 404):
            kind, reason = PermissionError, f"the Hub refused it ({status}); use a token with write access"
        elif status is not None:
            kind, reason = OSError, f"the Hub answered with an error ({status})"
        else:
            kind, reason = ConnectionError, "the Hub could not be reached, or the connection broke"
        message, cause = redact_token(remote, token)
        raise kind(
            f"could not upload to {repo_id}: {reason}. The local files are unchanged; call it again to complete the "
            f"upload. The Hub client says: {message}"
        ) from (error if cause else None)
