"""The one way by which anything leaves for the Hub."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import build_hf_headers, validate_repo_id


# Never uploaded, however deep it lies (a `*` stands for slashes too): pickles, which run code where they are opened,
# and `training_args.bin` among them holds the Hub token; the state of a run, which tells local paths; what is hidden.
_PICKLES = ("bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "distcp")
_NEVER = [
    *(f"*.{ending}" for ending in _PICKLES),
    *(each for name in ("trainer_state.json", "checkpoint-*", ".*") for each in (name, f"*/{name}")),
]

# What the client raises for an answer, a broken connection, or a page that is not the Hub's.
_REMOTE = (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


def create_repository(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, token: bool | str | None = None
) -> str:
    """
    Makes a repository on the Hub; one that exists is left as it is.

    Args:
        repo_id (`str`): its id, `"name"` or `"namespace/name"`.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*): whether a new one is private. Defaults to what the namespace has set.
        token (`bool` or `str`, *optional*): as in `huggingface_hub`; by default the one that is logged in.

    Returns:
        `str`: the id with its namespace.

    Raises:
        ValueError: `repo_id` has characters that the Hub does not allow.
        PermissionError: there is no token, or it may not write to the namespace.
        OSError: the Hub cannot be reached, or fails.
    """
    try:
        validate_repo_id(repo_id)
        if not repo_id.isascii():  # which older clients let pass
            raise HFValidationError("a character beyond ASCII")
    except HFValidationError as error:
        raise ValueError(
            f"repo_id={repo_id!r} is no repository id; pass 'name' or 'namespace/name', up to 96 of the characters "
            "A-Z a-z 0-9 - _ . each, without '--' or '..', no '-' or '.' first or last, no '.git' at the end"
        ) from error
    _check_token(repo_id, token)
    with _explained(repo_id, token):
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
    Uploads a folder to a repository, which is made if need be. Pickles, checkpoints and hidden files stay here.

    What does not change is not sent again, so the same call completes an upload that broke.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        repo_id (`str`), repo_type (`str`), private (`bool`), token (`bool` or `str`): see [`create_repository`].
        revision (`str`, *optional*): the branch, which is made if need be. Defaults to `"main"`.
        commit_message (`str`, *optional*): the first line of the commit's message.
        create_pr (`bool`, defaults to `False`): whether to open a pull request instead.
        allow_patterns (sequence of `str`, *optional*): upload only what matches one of these.
        delete_patterns (sequence of `str`, *optional*): delete in the repository what matches one of these and is not
            in the folder.
        blocking (`bool`, defaults to `True`): whether to wait for the upload to end.

    Returns:
        [`~huggingface_hub.CommitInfo`]: a `str`, the address of the commit; not `blocking`, a `Future` of it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `repo_id` has characters that the Hub does not allow, or `README.md` has metadata that it refuses.
        PermissionError: there is no token, or it may not write there.
        OSError: the connection broke, or the Hub failed. The local files are whole.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to upload")
    repo_id = create_repository(repo_id, repo_type=repo_type, private=private, token=token)
    api = HfApi(token=token)

    def upload() -> CommitInfo:
        with _explained(repo_id, token):
            if revision is not None and not create_pr and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                repo_type=repo_type,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message or "Upload with hf_optical",
                create_pr=create_pr,
                allow_patterns=None if allow_patterns is None else list(allow_patterns),
                delete_patterns=None if delete_patterns is None else list(delete_patterns),
                ignore_patterns=list(_NEVER),
            )

    return upload() if blocking else api.run_as_future(upload)


class PushToHub:
    """Gives `push_to_hub` to what has `save_pretrained`."""

    # Files that another state of it may have left in a repository, and that would then be read with this one.
    _optional_files: ClassVar[tuple[str, ...]] = ()

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
        Uploads what `save_pretrained` writes to a repository on the Hub, which is made if need be.

        Args:
            repo_id (`str`): the repository, `"name"` or `"namespace/name"`.
            private (`bool`, *optional*): whether a new repository is private.
            token (`bool` or `str`, *optional*): as in `huggingface_hub`; by default the one that is logged in.
            revision (`str`, *optional*): the branch, which is made if need be. Defaults to `"main"`.
            commit_message (`str`, *optional*): the first line of the commit's message.
            create_pr (`bool`, defaults to `False`): whether to open a pull request instead.

        Returns:
            [`~huggingface_hub.CommitInfo`]: a `str`, the address of the commit.

        Raises:
            ValueError: `repo_id` has characters that the Hub does not allow.
            PermissionError: there is no token, or it may not write there.
            OSError: the connection broke, or the Hub failed. The same call again completes the upload.
        """
        repo_id = create_repository(repo_id, private=private, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self._save_for_hub(Path(folder), repo_id)
            return upload_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                create_pr=create_pr,
                delete_patterns=self._optional_files or None,
            )

    def _save_for_hub(self, folder: Path, repo_id: str) -> None:
        self.save_pretrained(folder)


def _check_token(repo_id: str, token: bool | str | None) -> None:
    try:
        known = "authorization" in build_hf_headers(token=token)
    except LocalTokenNotFoundError:
        known = False
    secret = _secret(token)
    if secret and not re.fullmatch(r"[!-~]+", secret):
        # The HTTP library would print the whole header.
        raise ValueError(
            f"the token to upload to {repo_id} with has characters that no token has, such as a space or the end of a "
            "line; copy it again from https://huggingface.co/settings/tokens"
        )
    if not known:
        raise PermissionError(
            f"there is no token to upload to {repo_id} with; make one that may write at "
            "https://huggingface.co/settings/tokens, then log in with `hf auth login`, set HF_TOKEN or pass token"
        )


def _secret(token: bool | str | None) -> str:
    """The token that is sent for `token`; empty where there is none."""
    return token if isinstance(token, str) else (get_token() or "") if token is not False else ""


def without_token(error: Exception, token: bool | str | None = None) -> tuple[str, Exception | None]:
    """
    What an error of the Hub's client says, without the token, if the answer of a server or proxy repeats it; and the
    error itself to raise from, unless it, or one behind it, does so.
    """
    secret, said = _secret(token), str(error).strip()
    if secret and any(secret in f"{each} {each!r}" for each in _chain(error)):
        return said.replace(secret, "<token>"), None
    return said, error


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None and behind not in chain:
        chain.append(behind)
    return chain


@contextmanager
def _explained(repo_id: str, token: bool | str | None) -> Iterator[None]:
    """What the Hub or the connection did becomes an `OSError` that says so; what is wrong here stays as it is."""
    try:
        yield
    except Exception as error:
        chain = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        remote = next((each for each in chain if isinstance(each, _REMOTE)), None)
        if remote is None or (isinstance(error, ValueError) and remote is not error):  # such as a card that is refused
            raise
        status = remote.response.status_code if isinstance(remote, HfHubHTTPError) else None
        if status in (401, 403, 404):
            kind, reason = PermissionError, f"the Hub refused it ({status}); use a token that may write there"
        elif status is not None:
            kind, reason = OSError, f"the Hub answered with an error ({status})"
        else:
            kind, reason = ConnectionError, "the Hub could not be reached, or the connection broke"
        said, shown = without_token(remote, token)
        raise kind(
            f"could not upload to {repo_id}: {reason}. The local files are whole, and the same call again completes "
            f"the upload. The Hub client says: {said}"
        ) from (error if shown else None)
