"""Writing so that a half-written file is never taken for a whole one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder inside `directory`; what is written into it moves into `directory` when the block ends.

    Every file is flushed to the disk first and then renamed over its older version, so `directory` holds, file by
    file, the old text or the new one and never a part of it. If the block fails, the files of `directory` are as they
    were.

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
        readable = directory.stat().st_mode & 0o444
        for path in files:
            # safetensors gives its files to their owner alone; whoever may read the folder may read them.
            path.chmod(path.stat().st_mode | readable)
            _flush(path)
        targets = [directory / path.relative_to(staged) for path in files]
        for path, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        for folder in {directory, *(target.parent for target in targets)}:
            _flush(folder)
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(
            number,
            f"could not save to {directory} ({getattr(error, 'strerror', None) or error}). What was there before is "
            "unharmed; free some space or choose another folder, then save again",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` in one step: beside it, flushed, then renamed over it."""
    path = Path(path)
    with staged_directory(path.parent) as staged:
        (staged / path.name).write_text(text, encoding="utf-8")


def _error_number(error: Exception) -> int | None:
    """What the system answered, if that is what `error` is about."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # safetensors and tokenizers report a full disk as exceptions of their own, with the system's answer in the text.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
