"""Writing so that a half-written file is never taken for a whole one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


_PREFIX = ".saving-"
# In such a folder: the lock that its writer holds, what is being written, and the same once all of it is on the disk.
_LOCK, _NEW, _WHOLE = "lock", "new", "whole"
_RUN_LOCK = ".run.lock"
# What is answered where nothing can be written, however much space there is.
_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG)
# What file systems answer that know of no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder inside `directory`; what is written into it moves into `directory` when the block ends.

    Every file is flushed to the disk first and then renamed over its older version, so `directory` holds, file by
    file, the old text or the new one and never a part of it. If the block fails, the files of `directory` are as they
    were. If the process is killed, too; or, where it was killed between two renames, [`settle`] does the others.

    Args:
        directory (`str` or `os.PathLike`):
            The folder to write. Created if need be.

    Raises:
        OSError: the disk is full, or `directory` cannot be written. The message names the folder and the cure.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        settle(directory)
        staging, lock = _begin(directory)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {directory} ({error.strerror}); {_cure(error.errno)}") from error
    try:
        yield staging / _NEW
        _make_whole(staging)
        _move(staging / _WHOLE, directory)
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        with saving_to(directory):
            raise
    finally:
        lock.release()
        # It is there if Ctrl-C fell between two renames; the others are done next time.
        if not (staging / _WHOLE).exists():
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def saving_to(directory: str | os.PathLike) -> Iterator[None]:
    """
    Has an error of the disk say what could not be saved and what to do, unless it does already.

    Raises:
        OSError: in place of what the system or a library says of a disk.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or isinstance(error, OSError) and error.__cause__ is not None:
            raise
        raise OSError(
            number,
            f"could not save to {directory} ({getattr(error, 'strerror', None) or error}). What was there before is "
            f"unharmed; {_cure(number)}, then save again",
        ) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` in one step: beside it, flushed, then renamed over it."""
    path = Path(path)
    with staged_directory(path.parent) as staged:
        (staged / path.name).write_text(text, encoding="utf-8")


def settle(directory: str | os.PathLike) -> None:
    """
    Ends what processes that are gone began in `directory` with [`staged_directory`]: what was whole moves in, anything
    else is removed. What a living process is at stays, and so does all if `directory` may not be written.
    """
    for staging in Path(directory).glob(f"{_PREFIX}*"):
        with suppress(OSError, NotImplementedError), FileLock(staging / _LOCK).acquire(blocking=False):
            _move(staging / _WHOLE, staging.parent)
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def sole_run(directory: str | os.PathLike) -> Iterator[None]:
    """
    A block in which one run alone is at work in a folder. However its process ends, the folder is free again.

    Nothing is held where the file system knows of no locks.

    Raises:
        FileExistsError: another run is at work there.
    """
    path = Path(directory) / _RUN_LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FileExistsError(
            f"another run is at work in output_dir {directory}; wait until it has ended, or choose another output_dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        # While it is held: behind that, the file may be the next run's.
        with suppress(OSError):
            path.unlink()
        lock.release()


def flush(path: str | os.PathLike, *, deep: bool = False) -> None:
    """Waits until the disk holds a file, or the names in a folder; with `deep` all that is in the folder too."""
    path = Path(path)
    for each in [*(path.rglob("*") if deep else ()), path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _begin(directory: Path) -> tuple[Path, FileLock]:
    """A new folder to write in, and the lock that tells others that its owner lives."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
        lock = FileLock(staging / _LOCK)
        # Until it is locked, another process may take the folder for a deserted one and remove it. If it does so while
        # the lock makes sure of its folder, that is told as one that is there.
        with suppress(FileNotFoundError, FileExistsError):
            try:
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                    raise
            (staging / _NEW).mkdir()
            return staging, lock


def _make_whole(staging: Path) -> None:
    readable = staging.parent.stat().st_mode & 0o444
    for path in (staging / _NEW).rglob("*"):
        # safetensors gives its files to their owner alone; whoever may read the folder may read them.
        if path.is_file():
            path.chmod(path.stat().st_mode | readable)
    flush(staging / _NEW, deep=True)
    os.replace(staging / _NEW, staging / _WHOLE)
    flush(staging)


def _move(whole: Path, directory: Path) -> None:
    if not whole.is_dir():
        return
    targets = {path: directory / path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()}
    for path, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for folder in {directory, *(target.parent for target in targets.values())}:
        flush(folder)
    shutil.rmtree(whole, ignore_errors=True)


def _cure(number: int | None) -> str:
    """What to do about the answer of the system."""
    if number in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    return "choose another folder" if number in _NOT_HERE else "free some space or choose another folder"


def _error_number(error: Exception) -> int | None:
    """What the system answered, if that is what `error` is about."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # safetensors and tokenizers report a full disk as exceptions of their own, with the system's answer in the text.
    found = re.search(r"\(os error (\d+)\)", str(error))
    # And torch with nothing but the line of its own that saw it.
    return int(found[1]) if found else errno.EIO if "inline_container.cc" in str(error) else None
