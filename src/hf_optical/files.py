"""Writing so that a half-written file is never taken for a whole one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder beside `directory`; what is written into it moves into `directory` when the block ends.

    Every file is flushed to the disk first and then renamed over its older version, so `directory` holds, file by
    file, the old text or the new one and never a part of it. If the block fails, `directory` is as it was.

    Args:
        directory (`str` or `os.PathLike`):
            The folder to write. Created if need be.

    Raises:
        OSError: the disk is full, or `directory` cannot be written. The message names the folder and the cure.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {directory} ({error.strerror}); choose another folder") from error
    try:
        yield staged
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        for path in files:
            _flush(path)
        for path in files:
            target = directory / path.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        _flush(directory)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not save to {directory} ({error.strerror or error}). What was there before is unharmed; free some "
            "space or choose another folder, then save again",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` in one step: beside it, flushed, then renamed over it."""
    path = Path(path)
    with staged_directory(path.parent) as staged:
        (staged / path.name).write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
